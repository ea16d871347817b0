"""How sections are cut into passes: as few as what is fused allows, because every pass reads all weights.

A Sharer waits for nobody, so it reads all sections at once. The Receiver stops behind a fused section:
what comes after it reads the fused slice, and what is not fused shares a pass with what follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from c2c_runtime.chain.kv_cache import KVCache
from c2c_runtime.sections.alignment import UNFUSED, Section


@dataclass(frozen=True)
class Reading:
    """Tokens that a model reads together. ``positions``: theirs, int64 [tokens]; they rise, and leave
    gaps where a section spans more positions than the model has tokens of it."""

    ids: tuple[int, ...]
    positions: np.ndarray

    def chunks(self, num_tokens: int) -> Iterator[Reading]:
        """The same in parts of at most ``num_tokens``; none if there is nothing to read."""
        for part in even_parts(len(self.ids), num_tokens):
            yield Reading(self.ids[part], self.positions[part])


@dataclass(frozen=True)
class FusedSlice:
    """A fused section in the caches: ``length`` slots from ``receiver_start`` on and, of each Sharer,
    from ``sharer_starts`` on. ``mask``: who fuses, as in ``Section``."""

    receiver_start: int
    sharer_starts: tuple[int, ...]
    length: int
    mask: int


@dataclass(frozen=True)
class ReceiverPass:
    """What the Receiver reads next, possibly nothing, and what is fused behind it."""

    reading: Reading
    fused: FusedSlice | None


@dataclass(frozen=True)
class SectionPasses:
    """``sharers``: one reading each, which the first fusion needs. ``receiver``: at least one pass.
    ``num_held_ids``: ids that the Receiver's next slots hold already."""

    sharers: tuple[Reading, ...]
    receiver: tuple[ReceiverPass, ...]
    num_held_ids: int

    @property
    def writes_receiver(self) -> bool:
        """Whether anything is written to the Receiver's cache."""
        return any(each.reading.ids or each.fused is not None for each in self.receiver)


def plan_passes(
    sections: Sequence[Section],
    receiver: KVCache,
    sharers: Sequence[KVCache],
    *,
    num_held: int = 0,
    unread_span: int = 0,
    is_fusing: bool = True,
) -> SectionPasses:
    """The passes that append ``sections`` to these caches.

    ``num_held``: how many of the sections the Receiver's next slots hold already. ``unread_span``:
    positions that the Receiver alone has read since the last section. ``is_fusing``: False where the
    pair has nothing to fuse with. A Sharer without buffers, which is never run, reads nothing.
    Raises ``CapacityError`` if a cache has no room for them.
    """
    own = _Reader(receiver, receiver.next_position)
    others = [_Reader(cache, cache.next_position + unread_span) for cache in sharers]
    passes: list[ReceiverPass] = []
    for index, section in enumerate(sections):
        slots = own.slot, tuple(reader.slot for reader in others)
        own.read(section.receiver_ids, section.span, is_held=index < num_held)
        for reader, cache, ids in zip(others, sharers, section.sharer_ids, strict=True):
            reader.read(ids if cache.buffers else (), section.span)
        if is_fusing and section.mask != UNFUSED:
            fused = FusedSlice(*slots, len(section.receiver_ids), section.mask)
            passes.append(ReceiverPass(own.take(), fused))
    rest = own.take()
    if rest.ids or not passes:
        passes.append(ReceiverPass(rest, None))
    for reader, cache in zip((own, *others), (receiver, *sharers), strict=True):
        if cache.buffers:
            cache.require(reader.slot - cache.length, end=reader.end)
    held = sum(len(section.receiver_ids) for section in sections[:num_held])
    return SectionPasses(tuple(reader.take() for reader in others), tuple(passes), held)


def even_parts(length: int, longest: int) -> Iterator[slice]:
    """As few parts of at most ``longest`` as make up ``length``, as even as can be: a short one costs
    nearly what a long one does, because it reads all weights."""
    num_parts = -(-length // longest)
    for number in range(num_parts):
        yield slice(length * number // num_parts, length * (number + 1) // num_parts)


class _Reader:
    """Follows one model through sections: its next slot and position, and what it has yet to read."""

    def __init__(self, cache: KVCache, position: int) -> None:
        self.slot = cache.length
        self.end = position
        """The position behind the last token."""
        self._position = position
        self._ids: list[int] = []
        self._positions: list[int] = []

    def read(self, ids: Sequence[int], span: int, is_held: bool = False) -> None:
        """One section."""
        positions = range(self._position, self._position + len(ids))
        if not is_held:
            self._ids += ids
            self._positions += positions
        if ids:
            self.end = positions.stop
        self.slot += len(ids)
        self._position += span

    def take(self) -> Reading:
        """What there is to read since the last call."""
        reading = Reading(tuple(self._ids), np.array(self._positions, np.int64))
        self._ids, self._positions = [], []
        return reading
