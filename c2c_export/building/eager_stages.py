"""The stages in which eager PyTorch computes what the graphs are held to.

Nothing here depends on what the graphs compute in, so another precision or target finds it in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from c2c_export.building.kept_stages import KeptStages
from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint, LinkedLayers
from c2c_export.reading.model_source import ModelSource
from c2c_export.yardstick.eager import Caches
from c2c_export.yardstick.golden import (
    CaseOutcome,
    GoldenCase,
    receiver_expectation,
    sharer_expectation,
)
from c2c_export.yardstick.loss_reference import LossTokens, loss_reference
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import Pair
from c2c_runtime.checks.loss import LossReference

LoadModel = Callable[[], PreTrainedModel]
LoadFusers = Callable[[], list[LinkedLayers]]
_LOSS = "loss.npz"


@dataclass(frozen=True)
class StoredCaches:
    """A Sharer's caches of every case, in files of ``folder``."""

    folder: Path

    def load(self, case: GoldenCase) -> Caches:
        """Those of one case."""
        tensors = load_file(self._path(case))
        layers = range(len(tensors) // len(names.KINDS))
        return [(tensors[f"{layer}.key"], tensors[f"{layer}.value"]) for layer in layers]

    def save(self, case: GoldenCase, caches: Caches) -> None:
        """Write those of one case."""
        tensors = {
            f"{layer}.{kind}": tensor.contiguous()
            for layer, pair in enumerate(caches)
            for kind, tensor in zip(names.KINDS, pair, strict=True)
        }
        save_file(tensors, self._path(case))

    def _path(self, case: GoldenCase) -> Path:
        return self.folder / f"{case.name}.safetensors"


def run_sharer(
    source: ModelSource, number: int, cases: Sequence[GoldenCase], load: LoadModel, kept: KeptStages
) -> StoredCaches:
    """What Sharer ``number`` (from 1) holds of every case after one clean pass."""

    def compute(folder: Path) -> None:
        model = load()
        for case in cases:
            StoredCaches(folder).save(case, sharer_expectation(case, number, model))

    folder = kept.scratch / names.sharer(number)
    prompts = [(case.name, case.sharer_ids[number - 1], case.num_cached) for case in cases]
    read = {"model": kept.digests.of_model(source.directory, source.gguf_file), "prompts": prompts}
    kept.results("caches", folder, read, compute)
    return StoredCaches(folder)


def run_chain(
    pair: Pair,
    models: Sequence[ModelSource],
    cases: Sequence[GoldenCase],
    sharers: Sequence[StoredCaches],
    fusers: Sequence[FuserCheckpoint],
    golden: Path,
    load: LoadModel,
    load_fusers: LoadFusers,
    kept: KeptStages,
) -> tuple[CaseOutcome, ...]:
    """What the whole chain computes of every case: files in ``golden``, and the answers.

    ``models``: the Receiver, which ``load`` gives, and the Sharers. ``load_fusers`` gives ``fusers``.
    """

    def compute(folder: Path) -> list[dict[str, Any]]:
        model, layers = load(), load_fusers()
        outcomes = []
        for case in cases:
            caches = [stored.load(case) for stored in sharers]
            outcome = receiver_expectation(case, pair, model, layers, caches, folder)
            outcomes.append(asdict(outcome))
        return outcomes

    read = {
        "models": [kept.digests.of_model(model.directory, model.gguf_file) for model in models],
        "fusers": [kept.digests.of_folder(fuser.path) for fuser in fusers],
        "pair": replace(pair, name=""),
        "cases": cases,
    }
    said = kept.results("golden cases", golden, read, compute)
    return tuple(CaseOutcome(tuple(one["greedy_ids"]), tuple(one["margins"])) for one in said)


def run_loss_text(
    source: ModelSource, tokens: LossTokens, vocab_size: int, load: LoadModel, kept: KeptStages
) -> LossReference:
    """What the Receiver computes on the text that the loss of few bits is measured on."""

    def compute(folder: Path) -> None:
        loss_reference(load(), tokens.ids, vocab_size).save(folder / _LOSS)

    model = kept.digests.of_model(source.directory, source.gguf_file)
    kept.results("loss text", kept.scratch, {"model": model, "ids": tokens.ids}, compute)
    return LossReference.load(kept.scratch / _LOSS)
