"""What a conversation's caches hold: the sections that every model has read, then loose ids.

Loose ids are those that the Receiver alone has run since: the last section of a prompt, and the
answer. Where it goes back from them they are left in their slots, so that the next prompt can adopt
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2c_runtime.chain.kv_cache import KVCache
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, Section

_State = tuple[list[Section], int, list[int], int]


class SectionRecord:
    """The sections of one conversation, kept in step with the lengths of its caches.

    What is recorded is in the caches: ids are recorded after they were run, and an interrupt between
    the two leaves a record that ``is_true`` denies.
    """

    def __init__(self, receiver: KVCache, sharers: Sequence[KVCache]) -> None:
        self._receiver = receiver
        self._sharers = sharers
        self.sections: list[Section] = []
        self.loose_ids: list[int] = []
        self._left_ids: tuple[int, ...] = ()  # those that the Receiver has gone back from
        self._num_loads = self._loads()

    def state(self) -> _State:
        """For ``AllOrNothing``. Both lists grow or are replaced, they never shrink."""
        return self.sections, len(self.sections), self.loose_ids, len(self.loose_ids)

    def go_back(self, state: _State) -> None:
        """The slots of ids that were left may have been written since, so these are forgotten."""
        self.sections, num_sections, self.loose_ids, num_loose_ids = state
        del self.sections[num_sections:]
        del self.loose_ids[num_loose_ids:]
        self._left_ids = ()

    def num_ids(self, sections: Sequence[Section]) -> list[int]:
        """Tokens of these sections that the Receiver and each Sharer have; 0 of one that is never run."""
        own = sum(len(section.receiver_ids) for section in sections)
        others = [
            sum(len(section.sharer_ids[index]) for section in sections) if cache.buffers else 0
            for index, cache in enumerate(self._sharers)
        ]
        return [own, *others]

    @property
    def is_true(self) -> bool:
        """Whether the caches hold what was recorded. Not where somebody else wrote to them, by
        ``KVCache.load`` for example."""
        own, *others = self.num_ids(self.sections)
        span = _span_of(self.sections)
        position = self._receiver.next_position
        return (
            self._num_loads == self._loads()
            and self._receiver.length == own + len(self.loose_ids)
            and (position > span if self.loose_ids else position == span)
            and all(
                (cache.length, cache.next_position) == (length, span)
                for cache, length in zip(self._sharers, others, strict=True)
            )
        )

    def forget(self) -> None:
        """Nothing is recorded any more, and the caches are empty."""
        self.rewind(0)
        self._num_loads = self._loads()

    def keep_common(self, wanted: Sequence[Section]) -> None:
        """Go back to the last section that the caches and ``wanted`` have in common. Loose ids are
        kept in mind if nothing else came after that section. Nothing is kept of caches that are not
        as recorded."""
        if not self.is_true:
            self.forget()
        common = num_common(self.sections, wanted)
        left_ids: tuple[int, ...] = ()
        if common == len(self.sections):
            left_ids = tuple(self.loose_ids) or self._left_ids
        self.rewind(common)
        self._left_ids = left_ids

    def rewind(self, num_sections: int) -> None:
        """Forget all but the first sections, and what the Receiver alone has read."""
        self.hold(self.sections[:num_sections])

    def hold(self, sections: Sequence[Section]) -> None:
        """The caches hold these sections now: set their lengths, and record it."""
        span = _span_of(sections)
        caches = (self._receiver, *self._sharers)
        for cache, length in zip(caches, self.num_ids(sections), strict=True):
            cache.truncate(length, span)
        self._left_ids = ()
        self.loose_ids = []
        self.sections = list(sections)

    def drop_last(self, num_ids: int) -> None:
        """Forget the last loose ids and go back to before them. Raises ``UsageError`` if there are not
        as many."""
        if not (0 <= num_ids <= len(self.loose_ids) and self.is_true):
            raise UsageError(
                f"{num_ids} tokens cannot be taken back: the Receiver alone has run "
                f"{len(self.loose_ids) if self.is_true else 0}",
                "take back what `decode` ran since the last section",
            )
        if num_ids:
            length = self._receiver.length - num_ids
            self._receiver.truncate(length, int(self._receiver.key_positions[0, length]))
            self.loose_ids = self.loose_ids[:-num_ids]

    def num_adoptable(self, sections: Sequence[Section]) -> int:
        """How many of these sections the Receiver's next slots, which it has gone back from, hold as a
        run would leave them. None behind a fused one: the slots there were written before it was fused.
        """
        left_ids = self._left_ids
        slot, position = self._receiver.length, self._receiver.next_position
        for count, section in enumerate(sections):
            ids = section.receiver_ids
            positions = self._receiver.key_positions[0, slot : slot + len(ids)]
            expected = np.arange(position, position + len(ids))
            if left_ids[: len(ids)] != ids or not np.array_equal(positions, expected):
                return count
            if section.mask != UNFUSED:
                return count + 1
            left_ids = left_ids[len(ids) :]
            slot += len(ids)
            position += section.span
        return len(sections)

    @property
    def loose_section(self) -> Section | None:
        """What the Receiver alone has read since the last section, as one that is not fused; None if
        there is nothing, or nobody knows what."""
        if not self.loose_ids or not self.is_true:
            return None
        span = self._receiver.next_position - _span_of(self.sections)
        return Section(tuple(self.loose_ids), ((),) * len(self._sharers), UNFUSED, span)

    def add_sections(self, sections: Sequence[Section], num_left_ids: int = 0) -> None:
        """The caches hold these sections now, behind the others: a ``loose_section`` first of all.
        ``num_left_ids``: how many of the ids that were left are still in the slots behind."""
        self._left_ids = self._left_ids[len(self._left_ids) - num_left_ids :]
        self.loose_ids = []
        self.sections += sections

    def add_loose_ids(self, ids: Sequence[int]) -> None:
        """The Receiver alone has run these."""
        self._left_ids = ()
        self.loose_ids += ids

    @property
    def num_left_ids(self) -> int:
        """Ids that the Receiver has gone back from, and that are still in the slots behind."""
        return len(self._left_ids)

    def _loads(self) -> int:
        return sum(cache.num_loads for cache in (self._receiver, *self._sharers))


def num_common(held: Sequence[Section], wanted: Sequence[Section]) -> int:
    """How many sections two prompts begin with alike."""
    common = 0
    for one, other in zip(held, wanted, strict=False):
        if one != other:
            break
        common += 1
    return common


def _span_of(sections: Sequence[Section]) -> int:
    """Positions that these sections occupy."""
    return sum(section.span for section in sections)
