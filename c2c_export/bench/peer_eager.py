"""Peers in eager PyTorch: the C2C chain as it is published, and the Receiver in ``generate``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from c2c_export.bench.contender import MeasuredMode, Run
from c2c_export.bench.peer import PeerSetup
from c2c_export.fusers.fuser_checkpoint import LinkedLayers, read_fuser
from c2c_export.pair.pair import PairSource
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import ModelSource
from c2c_export.reports.stage_names import FIRST_STEP, FUSE, PREFILLS, RECEIVER, SHARER
from c2c_export.yardstick.eager import ReceiverChain, clean_caches


@cache
def loaded_model(source: ModelSource) -> PreTrainedModel:
    """The model in float32 with transformers' default attention. Reading a GGUF file takes half a minute,
    so it is kept for the next peer until the process ends."""
    model = load_model(source)
    model.set_attn_implementation("sdpa")
    return model


@cache
def _loaded_fusers(source: PairSource) -> list[LinkedLayers]:
    """Each Sharer's Fuser: {Receiver layer: (Sharer layer, module)}."""
    return [read_fuser(path).load_linked_layers() for path in source.fusers]


class EagerChain:
    """``Contender``: the chain section by section, over stock transformers models.

    ``all_logits``: with the logits of every token of both models' prefills, as the published code
    computes them; without: of the last token, and no LM head in Sharers.
    """

    mode: MeasuredMode = "c2c"
    is_peer = True

    def __init__(self, setup: PeerSetup, *, all_logits: bool) -> None:
        self.name = "eager" if all_logits else "eager-last"
        self._all_logits = all_logits
        self._setup = setup
        torch.set_num_threads(setup.num_threads)
        self._receiver = loaded_model(setup.source.receiver)
        self._sharers = [loaded_model(source) for source in setup.source.sharers]
        self._fusers = _loaded_fusers(setup.source)

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """One answer. The stages carry the names of a bundle's."""
        *fused, last = self._setup.sections(ids)
        stages = {SHARER: 0.0, RECEIVER: 0.0, FUSE: 0.0}
        marks = [time.perf_counter()]

        def lap(stage: str) -> None:
            marks.append(time.perf_counter())
            stages[stage] = stages.get(stage, 0.0) + marks[-1] - marks[-2]

        chain = ReceiverChain(
            self._receiver,
            self._fusers,
            self._setup.source.multi_sharer,
            all_logits=self._all_logits,
        )
        # A Sharer's caches depend on nothing else, so one pass gives those of every section.
        sharers = [
            clean_caches(
                model,
                [i for section in fused for i in section.sharer_ids[number]],
                all_logits=self._all_logits,
            )
            for number, model in enumerate(self._sharers)
        ]
        lap(SHARER)
        start = 0
        for section in fused:
            end = start + len(section.receiver_ids)
            chain.decode(section.receiver_ids)
            lap(RECEIVER)
            parts = [
                [(key[:, :, start:end], value[:, :, start:end]) for key, value in caches]
                for caches in sharers
            ]
            chain.fuse(end - start, parts, section.mask)
            lap(FUSE)
            start = end
        token_ids = [int(chain.decode(last.receiver_ids).argmax())]
        lap(FIRST_STEP)
        first_token_s = marks[-1] - marks[0]
        stages[PREFILLS] = stages[SHARER] + stages[RECEIVER]
        steps = []
        for _ in range(num_new - 1):
            started = time.perf_counter()
            token_ids.append(int(chain.decode(token_ids[-1:]).argmax()))
            steps.append(time.perf_counter() - started)
        return Run(first_token_s, stages, tuple(steps), token_ids=tuple(token_ids))

    def close(self) -> None:
        """Nothing: the models are shared."""


class TransformersGenerate:
    """``Contender``: the Receiver alone, in ``generate``."""

    name = "transformers"
    mode: MeasuredMode = "receiver"
    is_peer = True

    def __init__(self, setup: PeerSetup) -> None:
        torch.set_num_threads(setup.num_threads)
        self._model = loaded_model(setup.source.receiver)

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """One greedy answer; times are those at which ``generate`` hands out tokens."""
        clock = _Clock()
        started = time.perf_counter()
        self._model.generate(
            input_ids=torch.tensor([list(ids)]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=num_new,
            min_new_tokens=num_new,
            do_sample=False,
            pad_token_id=0,
            streamer=clock,
        )
        times = [started, *clock.times]
        first, *steps = (after - before for before, after in itertools.pairwise(times))
        return Run(first, {}, tuple(steps), token_ids=tuple(clock.token_ids))

    def close(self) -> None:
        """Nothing: the model is shared."""


class _Clock(BaseStreamer):
    """Notes when each new token comes; the first thing it is given is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.token_ids: list[int] = []
        self._has_prompt = False

    def put(self, value: Any) -> None:
        if self._has_prompt:
            self.times.append(time.perf_counter())
            self.token_ids += value.tolist()
        self._has_prompt = True

    def end(self) -> None:
        pass
