"""What a section has to be for a pair to run it: checked before anything is written to a cache."""

from __future__ import annotations

from collections.abc import Sequence

from c2c_runtime.arguments import check_count, shown
from c2c_runtime.bundle.manifest import Pair
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, Section
from c2c_runtime.sections.token_ids import check_ids


def checked_sections(sections: Sequence[Section]) -> Sequence[Section]:
    """``sections``, if that is what they are. Raises ``UsageError`` for ids or text in their place."""
    is_list = isinstance(sections, Sequence) and not isinstance(sections, str | bytes)
    if not is_list or not all(isinstance(section, Section) for section in sections):
        raise UsageError(
            f"a prompt is a list of sections, and this is {shown(sections)}",
            "give what session.sections_of_ids, sections_of_text or sections_of_chat returns",
        )
    return sections


class SectionRules:
    """The rules of one pair. Every method raises ``UsageError``."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._vocab_sizes = [pair.receiver.vocab_size, *(s.dims.vocab_size for s in pair.sharers)]

    def check_prompt(self, sections: Sequence[Section]) -> None:
        """All sections, and that the last, which the Receiver alone reads, has tokens."""
        if not checked_sections(sections) or not sections[-1].receiver_ids:
            raise UsageError(
                "the prompt's last section has no tokens, so there is nothing to answer from",
                "give at least one token",
            )
        for section in sections[:-1]:
            self.check_section(section)
        self.check_ids(0, sections[-1].receiver_ids)

    def check_section(self, section: Section) -> None:
        """One section that every model reads."""
        num_sharers = len(self._pair.sharers)
        receiver_ids, sharer_ids, mask = section.receiver_ids, section.sharer_ids, section.mask
        check_count("mask", mask, UNFUSED)
        check_count("span", section.span)
        if len(sharer_ids) != num_sharers:
            raise UsageError(
                f"a section came with ids for {len(sharer_ids)} Sharers; the pair has {num_sharers}",
                "give one sequence of ids a Sharer",
            )
        longest = max(map(len, (receiver_ids, *sharer_ids)))
        if section.span < longest:
            raise UsageError(
                f"a section of {longest} tokens cannot span {section.span} positions",
                "leave span out, or give at least the longest length",
            )
        if mask != UNFUSED and not 0 < mask < 2**num_sharers:
            raise UsageError(
                f"the Sharer mask {mask} is none for a pair of {num_sharers}",
                f"use -1 (not fused) or a bitmask from 1 to {2**num_sharers - 1}",
            )
        for index, ids in enumerate([receiver_ids, *sharer_ids]):
            self.check_ids(index, ids)
        for number, ids in enumerate(sharer_ids, start=1):
            fused = mask != UNFUSED and mask >> (number - 1) & 1
            if fused and len(ids) != len(receiver_ids):
                raise UsageError(
                    f"a fused section has {len(receiver_ids)} Receiver tokens but {len(ids)} tokens "
                    f"for Sharer {number}",
                    "fused sections map token by token: give as many",
                )
            max_len = self._pair.sharers[number - 1].max_fused_len
            # Also for a Sharer that is left out: the Fuser graph computes it all the same.
            if mask != UNFUSED and max_len is not None and len(receiver_ids) > max_len:
                raise UsageError(
                    f"a fused section has {len(receiver_ids)} tokens; the Fuser of Sharer {number} has weights "
                    f"for {max_len}",
                    "cut the prompt into shorter sections",
                )

    def check_ids(self, index: int, ids: Sequence[int]) -> None:
        """``index`` 0 is the Receiver, n is Sharer n."""
        check_ids(ids, self._vocab_sizes[index], f"Sharer {index}" if index else "Receiver")
