"""Sections of a plain prompt that is given piece by piece, where not every piece is to be fused.

What a Sharer reads in a section that is not fused is its own affair: it cuts the text into tokens of its
own, which it understands better than the Receiver's, and may read another text, such as examples that
show it what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from c2c_runtime.arguments import check_kind, check_switch, check_text
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, Section, Table, map_ids
from c2c_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class SectionText:
    """One section as text, special tokens included: none are added.

    ``text``: the Receiver's; empty where it reads nothing. ``is_fused``: all Sharers read the Receiver's
    tokens, mapped one by one, and fuse. ``sharer_text``: what the Sharers read in a section that is not
    fused; None: the same text.
    Raises ``UsageError`` for a fused section with a text of the Sharers' own, or without any.
    """

    text: str
    is_fused: bool = False
    sharer_text: str | None = None

    def __post_init__(self) -> None:
        check_text("text", self.text)
        check_switch("is_fused", self.is_fused)
        check_text("sharer_text", self.sharer_text, or_none=True)
        if self.is_fused and (self.sharer_text is not None or not self.text):
            raise UsageError(
                "a fused section has one text, which the Receiver and the Sharers read",
                "give it a text and no sharer_text, or do not fuse it",
            )


def sections_from_texts(
    texts: Sequence[SectionText],
    receiver: Tokenizer,
    sharers: Sequence[Tokenizer],
    tables: Sequence[Table | None],
) -> list[Section]:
    """A section a text. Each is cut into tokens by itself, so a token never reaches over two.

    ``sharers``, ``tables``: one a Sharer, as in ``sections_from_chat``. The last section gives the first
    logits: it is not fused, and the Receiver reads at least one token of it.
    Raises ``UsageError`` for texts that end otherwise.
    """
    check_kind("texts", texts, (list, tuple), "a list of SectionText")
    for text in texts:
        check_kind("a section's text", text, SectionText, "a SectionText")
    if not texts or texts[-1].is_fused or not texts[-1].text:
        raise UsageError(
            "the last section is what the Receiver answers from: it has a text and is not fused",
            "end with a SectionText that is not fused, such as a line break",
        )
    mask = (1 << len(sharers)) - 1
    sections = []
    for piece in texts:
        ids = receiver.encode(piece.text, add_special_tokens=False)
        if piece.is_fused:
            sections.append(Section.of(ids, [map_ids(ids, table) for table in tables], mask))
        else:
            read = piece.text if piece.sharer_text is None else piece.sharer_text
            others = [one.encode(read, add_special_tokens=False) for one in sharers]
            sections.append(Section.of(ids, others, UNFUSED))
    return sections
