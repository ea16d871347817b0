"""Golden cases: prompts that a bundle is verified on, and what eager PyTorch computes for them.

``short`` stores every cache: two fused sections, the second over a cache that is not empty, an
unfused one between them, and a last section of two tokens. ``window`` is there where a layer is
windowed: a prompt longer than the window, of which the last tokens are stored. No fused section is
longer than the Fusers have weights for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from c2c_export.fusers.fuser import FuserLayer
from c2c_export.yardstick.eager import Caches, ReceiverChain, clean_caches
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GoldenSpec, Limits, Pair
from c2c_runtime.sections.alignment import UNFUSED

TEXT = (
    "Two models read the same question. One of them knows more about it, the other one answers. "
    "Instead of writing a message, the first lends the second what it understood, as keys and values "
    "of every token that both have read. How much of that can a small network carry across? "
)
TOLERANCE_FP32 = 1e-4
# Of graphs that compute in less than fp32: the least cosine of a tensor with what eager fp32 computed,
# and the least share of greedy ids, each after the expected ones before it, that are equal.
_MIN_COSINE = {"fp16": 0.999, "bf16": 0.995, "int8": 0.99, "fp8": 0.98, "int4": 0.9}
_MIN_AGREEMENT = {"fp16": 0.95, "bf16": 0.9, "int8": 0.8, "fp8": 0.7, "int4": 0.4}
_NUM_SHARED_OUT = 40  # greedy ids that such a share is taken of: of 40, two may differ
_MIN_SHARED_OUT = 20  # of fewer, one may not, so only ids that rounding cannot change are kept
_MANY_PARAMETERS = (
    300_000_000  # of a Receiver whose eager steps take a quarter of a second and more
)
_LOW_PRECISION_MARGIN = 0.03  # between the best two logits, relative to the largest
_MAX_WINDOW = 2048  # eager attention over a longer prompt takes minutes and gigabytes
_MIN_MARGIN = 10  # tolerances between the best two logits, below which a greedy id is a coin toss


@dataclass(frozen=True)
class GoldenCase:
    """A prompt to compute. ``num_greedy``: ids of the answer, of which graphs in fp32 are held to the
    first ``num_greedy_fp32``. ``tail``: how many tokens of the caches are stored, None for all."""

    name: str
    receiver_ids: tuple[int, ...]
    sharer_ids: tuple[tuple[int, ...], ...]
    sections: tuple[tuple[int, int], ...]
    num_greedy: int
    num_greedy_fp32: int
    tail: int | None

    @property
    def num_cached(self) -> int:
        """Tokens before the last section: those that caches are compared on."""
        return sum(length for length, _ in self.sections[:-1])


@dataclass(frozen=True)
class CaseOutcome:
    """The answer that eager computed in fp32. ``margins``: how far the best logit of each id was ahead of
    the next best, relative to the largest."""

    greedy_ids: tuple[int, ...]
    margins: tuple[float, ...]


def plan_cases(
    pair: Pair,
    limits: Limits,
    text_ids: Sequence[int] | None,
    tables: Sequence[np.ndarray | None],
    num_parameters: int,
) -> tuple[GoldenCase, ...]:
    """The cases for a pair, whatever its graphs compute in; without Sharers nothing is fused.

    ``text_ids``: ``TEXT`` in Receiver tokens, None without a tokenizer (then seeded random ids).
    ``tables``: the alignment of each Sharer, None for same ids. ``num_parameters``: of the Receiver, of
    which a large one gives fewer greedy ids.
    """
    num_greedy = _NUM_SHARED_OUT if num_parameters < _MANY_PARAMETERS else _MIN_SHARED_OUT
    fused = ((1 << len(pair.sharers)) - 1) or UNFUSED

    def case(
        name: str, sections: list[tuple[int, int]], num_greedy_fp32: int, tail: int | None
    ) -> GoldenCase:
        num_tokens = sum(length for length, _ in sections)
        room = limits.max_seq_len - num_tokens
        ids = _prompt(pair, text_ids, num_tokens)
        sharer_ids = tuple(
            ids if table is None else tuple(int(table[i]) for i in ids) for table in tables
        )
        return GoldenCase(
            name,
            ids,
            sharer_ids,
            tuple(sections),
            min(num_greedy, room),
            min(num_greedy_fp32, room),
            tail,
        )

    lengths = [link.max_fused_len for link in pair.sharers if link.max_fused_len is not None]
    longest = min([limits.max_seq_len, *lengths])  # fused section
    num_tokens = min(30, limits.max_seq_len // 2)
    second = (num_tokens - 5) // 2
    first = min(num_tokens - 5 - second, longest)
    cases = [
        case(
            "short",
            [(first, fused), (3, -1), (min(second, longest), fused), (2, -1)],
            16,
            None,
        )
    ]
    windows = [pair.receiver.sliding_window, *(s.dims.sliding_window for s in pair.sharers)]
    window = max((w for w in windows if w is not None and w <= _MAX_WINDOW), default=None)
    if window is not None and window + 8 <= limits.max_seq_len:
        num_tokens = min(window + 24, limits.max_seq_len - 4)
        step = min(num_tokens // 2, longest)
        starts = range(0, num_tokens - 1, step)
        sections = [(min(step, num_tokens - 1 - start), fused) for start in starts]
        cases.append(case("window", [*sections, (1, -1)], 4, 8))
    return tuple(cases)


def _prompt(pair: Pair, text_ids: Sequence[int] | None, num_tokens: int) -> tuple[int, ...]:
    if text_ids:
        return tuple(text_ids[i % len(text_ids)] for i in range(num_tokens))
    vocab_size = min(d.vocab_size for d in (pair.receiver, *(s.dims for s in pair.sharers)))
    return tuple(np.random.default_rng(0).integers(0, vocab_size, num_tokens).tolist())


def sharer_expectation(case: GoldenCase, number: int, model: PreTrainedModel) -> Caches:
    """Sharer ``number``'s caches of all sections but the last."""
    return clean_caches(model, case.sharer_ids[number - 1][: case.num_cached])


def receiver_expectation(
    case: GoldenCase,
    pair: Pair,
    model: PreTrainedModel,
    fusers: Sequence[dict[int, tuple[int, FuserLayer]]],
    sharer_caches: Sequence[Caches],
    directory: Path,
) -> CaseOutcome:
    """Compute the chain in fp32 and write its caches and first logits to ``<name>.npz`` in
    ``directory``."""
    chain = ReceiverChain(model, fusers, pair.multi_sharer)
    start = 0
    for length, mask in case.sections[:-1]:
        sections = [
            [(key[:, :, start : start + length], value[:, :, start : start + length]) for key, value in caches]
            for caches in sharer_caches
        ]  # fmt: skip
        chain.append(case.receiver_ids[start : start + length], sections, mask)
        start += length
    arrays = _arrays("fused", chain.caches, case.tail)
    if pair.sharers:  # else what is fused is clean
        clean = clean_caches(model, case.receiver_ids[:start])
        arrays |= _arrays("clean", clean, case.tail)
    for number, (link, caches) in enumerate(zip(pair.sharers, sharer_caches, strict=True), start=1):
        arrays |= _arrays(names.sharer(number), caches[: link.num_cached_layers], case.tail)
    ids, logits = chain.greedy(case.receiver_ids[start:], case.num_greedy)
    arrays["logits"] = logits[0].numpy()
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / f"{case.name}.npz", allow_pickle=False, **arrays)
    return CaseOutcome(tuple(ids), tuple(_margin(row) for row in logits))


def golden_spec(case: GoldenCase, outcome: CaseOutcome, precision: str) -> GoldenSpec:
    """What graphs whose lossiest precision is ``precision`` are held to."""
    return GoldenSpec(
        name=case.name,
        path=f"golden/{case.name}.npz",
        receiver_ids=case.receiver_ids,
        sharer_ids=case.sharer_ids,
        sections=case.sections,
        greedy_ids=outcome.greedy_ids[: _num_kept(case, outcome.margins, precision)],
        tolerance=TOLERANCE_FP32,
        min_cosine=_MIN_COSINE.get(precision),
        min_agreement=_MIN_AGREEMENT.get(precision, 1.0),
    )


def _num_kept(case: GoldenCase, margins: Sequence[float], precision: str) -> int:
    """How many greedy ids say something: in fp32 those before the first coin toss, and at least one;
    in less, all that a share can be taken of."""
    if precision == "fp32":
        return max(_num_certain(margins[: case.num_greedy_fp32], _MIN_MARGIN * TOLERANCE_FP32), 1)
    if len(margins) >= _MIN_SHARED_OUT:
        return len(margins)
    return _num_certain(margins, _LOW_PRECISION_MARGIN)


def _num_certain(margins: Sequence[float], least: float) -> int:
    """Steps before the first whose margin is below ``least``."""
    return next((step for step, margin in enumerate(margins) if margin < least), len(margins))


def _margin(logits: Tensor) -> float:
    best, next_best = logits.topk(2).values.tolist()
    largest = float(logits.abs().max())
    return float(best - next_best) / largest if largest else 0.0


def _arrays(prefix: str, caches: Caches, tail: int | None) -> dict[str, np.ndarray]:
    return {
        f"{prefix}.{layer}.{kind}": tensor[:, :, -tail if tail else None :].contiguous().numpy()
        for layer, pair in enumerate(caches)
        for kind, tensor in zip(names.KINDS, pair, strict=True)
    }
