"""Repeating a bundle's golden cases: what the graphs compute against what eager PyTorch computed.

Needs no torch: the expected tensors travel with the bundle. Every case runs twice on one conversation,
the second time over buffers full of the first run's data, and greedy decoding follows the second.
Graphs in float32 are held to the largest difference. Where a case sets a cosine, because its graphs
compute in less, a tensor is held to that and greedy tokens to the share that agrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from c2c_runtime.answers.session import Session
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GoldenSpec
from c2c_runtime.chain.conversation import Conversation
from c2c_runtime.chain.kv_cache import KVCache
from c2c_runtime.errors import BundleError
from c2c_runtime.sections.alignment import UNFUSED

Metric = Literal["difference", "cosine", "agreement"]


@dataclass(frozen=True)
class Comparison:
    """One tensor, or a row of token ids, against its expectation, and the ``metric`` that decides.

    ``difference``: ``max_abs``, or ``max_rel`` (``max_abs`` over the largest expected magnitude), is
    at most ``tolerance``. ``cosine`` and ``agreement``: ``score``, the cosine of the two tensors as
    vectors or the share of token ids that are equal, is at least ``min_score``; for token ids
    ``max_abs`` counts those that differ. NaN never passes.
    """

    name: str
    max_abs: float
    max_rel: float
    tolerance: float
    metric: Metric = "difference"
    score: float | None = None
    min_score: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the metric that decides is within its bound."""
        if self.score is not None and self.min_score is not None:
            return self.score >= self.min_score
        return self.max_abs <= self.tolerance or self.max_rel <= self.tolerance

    @property
    def bound(self) -> str:
        """What decides and what is asked of it, for people."""
        if self.score is not None:
            return f"{self.metric} {self.score:.6g}, at least {self.min_score:.6g}"
        return f"{self.metric} at most {self.tolerance:.2g}"


def verify(session: Session) -> Iterator[Comparison]:
    """Run every golden case of the session's bundle; yields one comparison a kind of tensor.

    Those of Sharers that can answer by themselves come after the pair's.
    """
    for case in session.bundle.manifest.golden:
        conversation = session.conversation()
        expected = load_expected(session.bundle.path_of(case.path))
        yield from _verify_case(conversation, case, expected)
    for baseline in session.bundle.manifest.baselines:
        yield from verify(session.sharer(baseline.sharer))


def load_expected(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a golden file: ``clean.L.kind``, ``fused.L.kind``, ``sharerN.L.kind`` [batch,
    kv_heads, n, head_dim], the last n tokens before the last section, and ``logits`` [vocab_size]."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError) as error:
        raise BundleError.of(f"{path} cannot be read: {error}", "build the bundle again") from error


def compare(name: str, actual: np.ndarray, expected: np.ndarray, case: GoldenSpec) -> Comparison:
    """Two arrays of one shape: their largest difference, and their cosine where the case asks for it.

    What is not finite on either side is NaN and fails, also where both sides agree: an expectation that
    overflowed or is NaN says that eager PyTorch itself computed nothing that could be repeated.
    """
    if actual.size == 0:
        return Comparison(name, 0.0, 0.0, case.tolerance)
    found, wanted = (array.astype(np.float64).ravel() for array in (actual, expected))
    if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        # There is no difference to what is not a number, and nothing is close to infinity.
        nothing = math.nan
        score = None if case.min_cosine is None else nothing
        metric: Metric = "difference" if score is None else "cosine"
        return Comparison(name, nothing, nothing, case.tolerance, metric, score, case.min_cosine)
    max_abs = float(np.max(np.abs(found - wanted)))
    largest = float(np.max(np.abs(wanted)))
    max_rel = max_abs / largest if largest else max_abs
    if case.min_cosine is None:
        return Comparison(name, max_abs, max_rel, case.tolerance)
    score = _cosine(found, wanted)
    return Comparison(name, max_abs, max_rel, case.tolerance, "cosine", score, case.min_cosine)


def compare_ids(name: str, actual: Sequence[int], case: GoldenSpec) -> Comparison:
    """Token ids against the case's: how many differ, and the share of those that are equal."""
    wrong = sum(a != b for a, b in zip(actual, case.greedy_ids, strict=True))
    share = 1.0 - wrong / len(actual)
    return Comparison(name, float(wrong), float(wrong), 0.0, "agreement", share, case.min_agreement)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """1 where both are zero; NaN or 0 where only one is of use."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths == 0.0:
        return float(np.array_equal(a, b))
    return float(a @ b) / lengths


def _verify_case(
    conversation: Conversation, case: GoldenSpec, expected: dict[str, np.ndarray]
) -> Iterator[Comparison]:
    _append_sections(conversation, case, fuse=False)
    yield from _compare_cache(
        f"{case.name}: clean Receiver cache", "clean", conversation.receiver, expected, case
    )
    for round_name in ("", ", reused buffers"):
        conversation.reset()
        last = _append_sections(conversation, case, fuse=True)
        for number, cache in enumerate(conversation.sharers, start=1):
            label = f"{case.name}: Sharer {number} cache{round_name}"
            yield from _compare_cache(label, names.sharer(number), cache, expected, case)
        what = "fused Receiver cache" if conversation.sharers else "cache"
        label = f"{case.name}: {what}{round_name}"
        yield from _compare_cache(label, "fused", conversation.receiver, expected, case)
        logits = conversation.decode(last)
        label = f"{case.name}: first logits{round_name}"
        yield compare(label, logits.numpy(), expected["logits"], case)
    if not case.greedy_ids:
        return
    # Every step is fed the expected id, so that one id that differs is one and not all that follow.
    greedy = [_best_id(logits.numpy())]
    for token_id in case.greedy_ids[:-1]:
        greedy.append(_best_id(conversation.decode([token_id]).numpy()))
    yield compare_ids(f"{case.name}: {len(greedy)} greedy tokens", greedy, case)


def _best_id(logits: np.ndarray) -> int:
    """The greedy id, or -1, which equals none, where the highest logit is no finite number."""
    best = int(np.argmax(logits))
    return best if math.isfinite(logits[best]) else -1


def _append_sections(conversation: Conversation, case: GoldenSpec, fuse: bool) -> tuple[int, ...]:
    """Append every section but the last, and return the last one's ids."""
    start = 0
    for length, mask in case.sections[:-1]:
        section = slice(start, start + length)
        conversation.append(
            case.receiver_ids[section],
            [ids[section] for ids in case.sharer_ids],
            mask if fuse else UNFUSED,
        )
        start += length
    return case.receiver_ids[start:]


def _compare_cache(
    label: str, prefix: str, cache: KVCache, expected: dict[str, np.ndarray], case: GoldenSpec
) -> Iterator[Comparison]:
    """The worst layer of a cache; nothing where the case stores nothing of it."""
    found = [
        compare(label, cache.valid(layer, kind)[:, :, -wanted.shape[2] :], wanted, case)
        for layer, kind in cache.buffers
        if (wanted := expected.get(f"{prefix}.{layer}.{kind}")) is not None
    ]
    if found:
        yield worst_of(found)


def worst_of(found: Sequence[Comparison]) -> Comparison:
    """Of comparisons that one metric decides, the one that is farthest from its bound: where any is
    outside, it is one of these. NaN is farther than anything; of equals, the first."""
    return max(found, key=lambda comparison: (not comparison.ok, _distance(comparison)))


def _distance(found: Comparison) -> float:
    """How far it is off, by what decides: of two differences the smaller one, which may pass alone."""
    decides = (-found.score,) if found.score is not None else (found.max_abs, found.max_rel)
    return math.inf if any(map(math.isnan, decides)) else min(decides)
