"""What a conversation's caches hold: the sections that every model has read, then loose ids.

Loose ids are those that the Receiver alone has run since: the last section of a prompt, and the
answer. After going back they stay in their slots, so that the next prompt can adopt them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2c_runtime.chain.kv_cache import KVCache
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, Section


class SectionRecord:
    """The sections of one conversation, kept in step with the lengths of its caches."""

    def __init__(self, receiver: KVCache, sharers: Sequence[KVCache]) -> None:
        self._receiver = receiver
        self._sharers = sharers
        self.sections: list[Section] = []
        self.loose_ids: list[int] = []

    @property
    def num_receiver_ids(self) -> int:
        """Tokens that the Receiver has of the recorded sections."""
        return sum(len(section.receiver_ids) for section in self.sections)

    def num_sharer_ids(self, index: int) -> int:
        """Tokens that Sharer ``index`` + 1 has of the recorded sections; 0 if it is never run."""
        if not self._sharers[index].buffers:
            return 0
        return sum(len(section.sharer_ids[index]) for section in self.sections)

    @property
    def span(self) -> int:
        """Positions that the recorded sections occupy."""
        return sum(section.span for section in self.sections)

    @property
    def is_true(self) -> bool:
        """Whether the caches hold as many tokens as were recorded. Not where somebody else wrote to
        them, by ``KVCache.load`` for example."""
        return self._holds(self.num_receiver_ids + len(self.loose_ids))

    @property
    def is_at_sections(self) -> bool:
        """Whether the caches hold the recorded sections and nothing after them that counts."""
        return self._holds(self.num_receiver_ids)

    def _holds(self, num_receiver_ids: int) -> bool:
        return self._receiver.length == num_receiver_ids and all(
            cache.length == self.num_sharer_ids(index) for index, cache in enumerate(self._sharers)
        )

    def forget(self) -> None:
        """Nothing is recorded any more; the caches are left as they are."""
        self.sections.clear()
        self.loose_ids.clear()

    def keep_common(self, wanted: Sequence[Section]) -> None:
        """Go back to the last section that the caches and ``wanted`` have in common. Loose ids are
        kept in mind if nothing else came after that section. Nothing is kept of caches that are not
        as recorded."""
        if not self.is_true:
            self.forget()
        common = num_common(self.sections, wanted)
        if common < len(self.sections):
            self.loose_ids.clear()
        self.rewind(common)

    def rewind(self, num_sections: int) -> None:
        """Forget all but the first sections. The Receiver's loose ids stay in their slots."""
        del self.sections[num_sections:]
        self._receiver.truncate(self.num_receiver_ids, self.span)
        for index, cache in enumerate(self._sharers):
            cache.truncate(self.num_sharer_ids(index), self.span)

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
            del self.loose_ids[-num_ids:]

    def num_adoptable(self, sections: Sequence[Section]) -> int:
        """How many of these sections the Receiver's next slots, which it has gone back from, hold as a
        run would leave them. None behind a fused one: the slots there were written before it was fused.
        """
        slot = self.num_receiver_ids
        if self._receiver.length != slot:
            return 0  # it has not gone back: these ids are part of the conversation
        loose_ids, position = tuple(self.loose_ids), self._receiver.next_position
        for count, section in enumerate(sections):
            ids = section.receiver_ids
            positions = self._receiver.key_positions[0, slot : slot + len(ids)]
            expected = np.arange(position, position + len(ids))
            if loose_ids[: len(ids)] != ids or not np.array_equal(positions, expected):
                return count
            if section.mask != UNFUSED:
                return count + 1
            loose_ids = loose_ids[len(ids) :]
            slot += len(ids)
            position += section.span
        return len(sections)

    @property
    def unread_span(self) -> int:
        """Positions of the ids that the Receiver alone has read since the last section, and not gone
        back from."""
        return self._receiver.next_position - self.span if self.loose_ids and self._is_ahead else 0

    def drop_loose_ids(self) -> None:
        """Forget ids that the Receiver has gone back from."""
        if not self._is_ahead:
            self.loose_ids.clear()

    def begin(self, num_held_ids: int) -> list[int]:
        """Before sections are run: ids of the Receiver alone become a section, too. Those that it has
        gone back from are forgotten; of them, the ones behind the ``num_held_ids`` that are adopted are
        returned, for a run that leaves their slots alone."""
        span = self.unread_span
        if span:
            nothing = ((),) * len(self._sharers)
            self.sections.append(Section(tuple(self.loose_ids), nothing, UNFUSED, span))
            for cache in self._sharers:
                cache.skip(span)
            self.loose_ids.clear()
        behind = self.loose_ids[num_held_ids:]
        self.loose_ids.clear()
        return behind

    @property
    def _is_ahead(self) -> bool:
        """Whether the Receiver holds ids behind the recorded sections."""
        return self._receiver.length != self.num_receiver_ids


def num_common(held: Sequence[Section], wanted: Sequence[Section]) -> int:
    """How many sections two prompts begin with alike."""
    common = 0
    for one, other in zip(held, wanted, strict=False):
        if one != other:
            break
        common += 1
    return common
