"""What eager PyTorch computes for the text on which the loss of few bits is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from c2c_export.pair.prepare import PreparedPair
from c2c_export.yardstick.loss_text import paragraphs
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import Dialect, Limits, Loss, LossBounds, LossSpec, ModelDims
from c2c_runtime.bundle.precision import Weights
from c2c_runtime.checks.loss import NUM_TOP, LossReference, sampled_ids

_MAX_TOKENS = 512
_MIN_TOKENS = 32
_MAX_WORK = 1.6e11  # parameters times tokens: half a minute of decode steps on two cores
_GPU_DIALECTS_COST = 4  # graphs for GPUs take a CPU so many times as long, and more
_CHUNK = 64  # tokens of one eager pass: all logits of 512 are 100 MB and more

# Several times what sound bundles lose, see docs/precision.md; int4 has zero points on CPUs only.
_BOUNDS: dict[Weights, LossBounds] = {
    "int8": LossBounds(0.99, 0.8, 0.1),
    "fp8": LossBounds(0.97, 0.6, 0.3),
    "int4": LossBounds(0.8, 0.4, 1.0),
}
_CPU_INT4 = LossBounds(0.95, 0.6, 0.3)


@dataclass(frozen=True)
class PlannedLoss:
    """The tokens to measure, and what the loss on them is held to."""

    token_ids: tuple[int, ...]
    is_prose: bool
    bounds: LossBounds
    path: str = "golden/loss.npz"

    def spec(self, loss: Loss) -> LossSpec:
        """The manifest's entry once it is measured."""
        return LossSpec(self.path, self.is_prose, self.bounds, loss)


@dataclass(frozen=True)
class LossTokens:
    """The tokens on which the loss of a pair's bundles is measured. ``is_prose``: of the text, not random."""

    ids: tuple[int, ...]
    is_prose: bool


def loss_tokens(prepared: PreparedPair, num_parameters: int) -> LossTokens:
    """Those of the dialect that measures most. ``num_parameters``: of the Receiver."""
    num_tokens = num_loss_tokens(num_parameters, prepared.limits, "ort")
    tokenizer = prepared.tokenizers.get(names.RECEIVER)
    ids = loss_token_ids(tokenizer, prepared.pair.receiver, num_tokens)
    return LossTokens(tuple(ids), tokenizer is not None)


def plan_loss(
    prepared: PreparedPair, num_parameters: int, weights: Weights | None, dialect: Dialect
) -> PlannedLoss | None:
    """What to measure of a bundle; None where the Receiver's weights, stored as ``weights``, lose no bits.

    ``num_parameters``: of the Receiver. ``dialect``: of its graph.
    """
    if weights is None:
        return None
    tokens = loss_tokens(prepared, num_parameters)
    ids = tokens.ids[: num_loss_tokens(num_parameters, prepared.limits, dialect)]
    bounds = _CPU_INT4 if weights == "int4" and dialect == "ort" else _BOUNDS[weights]
    return PlannedLoss(ids, tokens.is_prose, bounds)


def num_loss_tokens(num_parameters: int, limits: Limits, dialect: Dialect) -> int:
    """How many tokens to measure: 512, or fewer where a step takes long on a CPU."""
    cost = num_parameters * (1 if dialect == "ort" else _GPU_DIALECTS_COST)
    num_tokens = _MAX_TOKENS
    while num_tokens > _MIN_TOKENS and num_tokens * cost > _MAX_WORK:
        num_tokens //= 2
    return min(num_tokens, limits.max_seq_len)


def loss_token_ids(
    tokenizer: PreTrainedTokenizerBase | None, dims: ModelDims, num_tokens: int
) -> list[int]:
    """The text's first tokens, with what the tokenizer begins a text with; without a tokenizer seeded
    random ids."""
    if tokenizer is not None:
        return list(tokenizer.encode(paragraphs()))[:num_tokens]
    return [int(i) for i in np.random.default_rng(0).integers(0, dims.vocab_size, num_tokens)]


def first_tokens(reference: LossReference, num_tokens: int) -> LossReference:
    """What a reference says of its first tokens: none depends on those after it."""
    if num_tokens >= len(reference.token_ids):
        return reference
    return replace(
        reference,
        **{
            field.name: getattr(reference, field.name)[:num_tokens]
            for field in fields(reference)
            if field.name not in ("sampled_ids", "next_logits")
        },
        next_logits=reference.next_logits[: num_tokens - 1],
    )


def loss_reference(model: PreTrainedModel, ids: Sequence[int], vocab_size: int) -> LossReference:
    """Run ``ids`` through ``model`` in fp32, a chunk at a time."""
    cache = DynamicCache()
    sample = torch.from_numpy(sampled_ids(vocab_size)).long()
    parts: list[list[torch.Tensor]] = []
    for first in range(0, len(ids), _CHUNK):
        chunk, following = ids[first : first + _CHUNK], ids[first + 1 : first + 1 + _CHUNK]
        with torch.no_grad():
            output = model(input_ids=torch.tensor([list(chunk)]), cache=cache, use_cache=True)
        logits = output.logits[0].float()
        top = logits.topk(min(NUM_TOP, vocab_size))
        rows = torch.arange(len(following))
        parts.append(
            [
                logits.double().logsumexp(dim=1),
                logits.argmax(dim=1).int(),
                top.indices.int(),
                top.values,
                logits[rows, torch.tensor(following, dtype=torch.long)],
                logits[:, sample],
            ]
        )
    log_sum_exp, best, top_ids, top_logits, following_logits, sampled = (
        torch.cat(column).numpy() for column in zip(*parts, strict=True)
    )
    return LossReference(
        token_ids=np.array(ids, np.int32),
        log_sum_exp=log_sum_exp,
        best_ids=best,
        top_ids=top_ids,
        top_logits=top_logits,
        next_logits=following_logits,
        sampled_ids=sampled_ids(vocab_size),
        sampled_logits=sampled,
    )
