"""Repeating a bundle's golden cases: what the graphs compute against what eager PyTorch computed.

Needs no torch: the expected tensors travel with the bundle. Every case runs twice on one conversation,
the second time over buffers full of the first run's data, and greedy decoding follows the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2c_runtime import names
from c2c_runtime.alignment import UNFUSED
from c2c_runtime.conversation import Conversation
from c2c_runtime.errors import BundleError
from c2c_runtime.kv_cache import KVCache
from c2c_runtime.manifest import GoldenSpec
from c2c_runtime.session import Session


@dataclass(frozen=True)
class Comparison:
    """One tensor against its expectation. ``max_rel`` is ``max_abs`` over the largest expected
    magnitude; for token ids ``max_abs`` counts the ids that differ. NaN never passes."""

    name: str
    max_abs: float
    max_rel: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within tolerance, absolutely or relative to the largest value."""
        return self.max_abs <= self.tolerance or self.max_rel <= self.tolerance


def verify(session: Session) -> Iterator[Comparison]:
    """Run every golden case of the session's bundle; yields one comparison a kind of tensor."""
    for case in session.bundle.manifest.golden:
        conversation = session.conversation()
        expected = load_expected(session.bundle.path_of(case.path))
        yield from _verify_case(conversation, case, expected)


def load_expected(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a golden file: ``clean.L.kind``, ``fused.L.kind``, ``sharerN.L.kind`` [batch,
    kv_heads, n, head_dim], the last n tokens before the last section, and ``logits`` [vocab_size]."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError) as error:
        raise BundleError.of(f"{path} cannot be read: {error}", "build the bundle again") from error


def compare(name: str, actual: np.ndarray, expected: np.ndarray, tolerance: float) -> Comparison:
    """Largest difference of two arrays of one shape."""
    if actual.size == 0:
        return Comparison(name, 0.0, 0.0, tolerance)
    max_abs = float(np.max(np.abs(actual.astype(np.float64) - expected)))
    largest = float(np.max(np.abs(expected)))
    return Comparison(name, max_abs, max_abs / largest if largest else max_abs, tolerance)


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
        label = f"{case.name}: fused Receiver cache{round_name}"
        yield from _compare_cache(label, "fused", conversation.receiver, expected, case)
        logits = conversation.decode(last)
        label = f"{case.name}: first logits{round_name}"
        yield compare(label, logits.numpy(), expected["logits"], case.tolerance)
    greedy = [int(np.argmax(logits.numpy()))]
    while len(greedy) < len(case.greedy_ids):
        greedy.append(int(np.argmax(conversation.decode(greedy[-1:]).numpy())))
    wrong = sum(a != b for a, b in zip(greedy, case.greedy_ids, strict=True))
    yield Comparison(f"{case.name}: {len(greedy)} greedy tokens", float(wrong), float(wrong), 0.0)


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
    worst: Comparison | None = None
    for layer, kind in cache.buffers:
        wanted = expected.get(f"{prefix}.{layer}.{kind}")
        if wanted is None:
            continue
        tail = cache.valid(layer, kind)[:, :, -wanted.shape[2] :]
        found = compare(label, tail, wanted, case.tolerance)
        # `not <=` instead of `>`: a NaN is worse than anything.
        if worst is None or not found.max_rel <= worst.max_rel:
            worst = found
    if worst is not None:
        yield worst
