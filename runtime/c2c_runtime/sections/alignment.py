"""Sections of a prompt given as token ids: what the Receiver and each Sharer read, and who fuses.

A section is fused as a whole or not at all. In a fused section the Sharers read the Receiver's
tokens, mapped one by one through their tables. What a Sharer reads in a section that is not fused
is its own affair: in a chat, the tokens of its own template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from c2c_runtime.arguments import check_count, check_kind, shown
from c2c_runtime.errors import BundleError, UsageError
from c2c_runtime.sections.token_ids import check_ids, token_ids
from c2c_runtime.text.chat_spans import content_spans
from c2c_runtime.text.messages import Message
from c2c_runtime.text.tokenizer import Tokenizer

Table = npt.NDArray[np.int32]

UNFUSED = -1


@dataclass(frozen=True)
class Section:
    """A run of tokens that is appended to all caches at once.

    ``sharer_ids``: one tuple a Sharer, in the order of the pair. A Sharer that fuses here has as
    many ids as the Receiver; one that does not can have any number, none included.
    ``mask``: -1 (``UNFUSED``), or bit i set where Sharer i + 1 fuses.
    ``span``: how far every model's next position moves, the longest of the lengths. A model with
    fewer tokens leaves the positions behind its last token unused.
    """

    receiver_ids: tuple[int, ...]
    sharer_ids: tuple[tuple[int, ...], ...]
    mask: int
    span: int

    @classmethod
    def of(
        cls, receiver_ids: Sequence[int], sharer_ids: Sequence[Sequence[int]], mask: int
    ) -> Section:
        """A section whose span follows from its ids. Raises ``UsageError`` for ids that are none."""
        receiver = token_ids(receiver_ids)
        check_kind("sharer_ids", sharer_ids, (list, tuple), "a list, the ids of each Sharer in it")
        sharers = tuple(token_ids(ids) for ids in sharer_ids)
        span = max(len(receiver), *(len(ids) for ids in sharers)) if sharers else len(receiver)
        return cls(receiver, sharers, mask, span)


def load_alignment(path: Path) -> Table:
    """The table in ``path``: the Sharer id of each Receiver id, int32 ``[receiver vocabulary]``.

    Raises ``BundleError`` if the file is missing, pickled, or holds anything else.
    """
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _not_a_table(path, str(error)) from error
    if not isinstance(table, np.ndarray):
        raise _not_a_table(path, "it is an archive of arrays")
    if table.dtype != np.int32 or table.ndim != 1:
        raise _not_a_table(path, f"it is {table.dtype} with shape {list(table.shape)}")
    if table.size == 0 or int(table.min()) < 0:
        raise _not_a_table(path, "it is empty" if table.size == 0 else "it holds negative ids")
    return table


def map_ids(receiver_ids: Sequence[int], table: Table | None) -> tuple[int, ...]:
    """The Sharer's ids for the Receiver's; the same ids if ``table`` is None (same tokenizer).

    Raises ``UsageError`` if an id is not in the table.
    """
    if table is None:
        return tuple(receiver_ids)
    check_ids(receiver_ids, len(table))
    ids = np.asarray(receiver_ids, dtype=np.int64)
    return tuple(table[ids].tolist())


def sections_from_ids(
    receiver_ids: Sequence[int],
    tables: Sequence[Table | None],
    lengths_and_masks: Sequence[tuple[int, int]] | None = None,
) -> list[Section]:
    """The sections of a prompt of ids.

    ``tables``: one a Sharer, None where it has the Receiver's tokenizer. ``lengths_and_masks``:
    (tokens, mask) a section; None fuses all tokens but the last with all Sharers. Mask 0 means
    the same as -1.

    Raises ``UsageError`` if there are no ids, an id is no integer or not in a table, the lengths do not
    add up, a mask names a Sharer that is not there, or the last section is fused. Whether ids are in a
    model's vocabulary is checked by who runs them.
    """
    ids = token_ids(receiver_ids)
    if not ids:
        raise UsageError("the prompt has no tokens", "give at least one token id")
    if lengths_and_masks is None:
        all_sharers = (1 << len(tables)) - 1
        head = [(len(ids) - 1, all_sharers)] if len(ids) > 1 else []
        lengths_and_masks = [*head, (1, UNFUSED)]
    _check_sections(len(ids), lengths_and_masks, len(tables))
    sections: list[Section] = []
    start = 0
    for length, mask in lengths_and_masks:
        part = ids[start : start + length]
        mapped = [map_ids(part, table) for table in tables]
        sections.append(Section.of(part, mapped, mask or UNFUSED))
        start += length
    return sections


def sections_from_chat(
    messages: Sequence[Message],
    receiver: Tokenizer,
    sharers: Sequence[Tokenizer],
    tables: Sequence[Table | None],
    add_generation_prompt: bool = True,
    enable_thinking: bool = False,
    max_tokens: int | None = None,
) -> list[Section]:
    """The sections of a chat: what each message says is fused, template tokens are not.

    Every model renders its own template. Template sections hold each model's own tokens, message
    sections the Receiver's tokens and, for the Sharers, those mapped through ``tables`` (one a
    Sharer, None where it has the Receiver's tokenizer). A message that the Receiver's template
    leaves out is no section; a Sharer whose template leaves it out does not fuse it and reads
    nothing there. A template section may be empty for some of the models, but never the last one
    for the Receiver: if the chat ends with a message, the message's last token is the last section.

    ``max_tokens``: what the Receiver has room for; a chat that is far longer is not read to its end.

    Raises ``UsageError`` if a template refuses the chat, a content is not text, or nothing is left,
    ``CapacityError`` for a chat that cannot fit.
    """
    if len(sharers) != len(tables):
        raise UsageError(
            f"{len(sharers)} Sharer tokenizers but {len(tables)} alignment tables",
            "give one table, or None, a Sharer",
        )

    def read(tokenizer: Tokenizer, max_tokens: int | None = None) -> _TokenizedChat:
        return _tokenize_chat(
            messages, tokenizer, add_generation_prompt, enable_thinking, max_tokens
        )

    own = read(receiver, max_tokens)
    order = tuple(own.ranges)
    others = [read(sharer).restricted_to(order) for sharer in sharers]
    templates = own.templates(order)
    other_templates = [other.templates(order) for other in others]

    sections: list[Section] = []
    for number, template in enumerate(templates):
        parts = [other[number] for other in other_templates]
        sections.append(Section.of(template, parts, UNFUSED))
        if number < len(order):
            start, end = own.ranges[order[number]]
            ids = own.ids[start:end]
            fusing = [order[number] in other.ranges for other in others]
            mapped = [
                map_ids(ids, table) if fuses else ()
                for table, fuses in zip(tables, fusing, strict=True)
            ]
            mask = sum(1 << bit for bit, fuses in enumerate(fusing) if fuses)
            sections.append(Section.of(ids, mapped, mask or UNFUSED))
    if order and not templates[-1]:
        sections = _split_last(sections)
    kept = [section for section in sections if section.span > 0]
    if not kept or not kept[-1].receiver_ids:
        raise UsageError("the Receiver's template makes no tokens of this chat", "say something")
    return kept


@dataclass(frozen=True)
class _TokenizedChat:
    """A chat as one model reads it. ``ranges``: tokens ``ids[start:end]`` of each message that has
    some, by message index, in the order of the text."""

    ids: tuple[int, ...]
    ranges: dict[int, tuple[int, int]]

    def restricted_to(self, order: Sequence[int]) -> _TokenizedChat:
        """Without the messages that ``order`` does not list or lists in another order."""
        ranges: dict[int, tuple[int, int]] = {}
        position = 0
        for index in order:
            start, end = self.ranges.get(index, (-1, -1))
            if start >= position:
                ranges[index] = (start, end)
                position = end
        return _TokenizedChat(self.ids, ranges)

    def templates(self, order: Sequence[int]) -> list[tuple[int, ...]]:
        """Template tokens before, between and after the messages of ``order``, one tuple more than
        there are messages. Where this model lacks a message, the tokens on both of its sides stand
        before it."""
        parts: list[tuple[int, ...]] = [()] * (len(order) + 1)
        slot, position = 0, 0
        for number, index in enumerate(order):
            if index in self.ranges:
                start, end = self.ranges[index]
                parts[slot] = self.ids[position:start]
                slot, position = number + 1, end
        parts[slot] = self.ids[position:]
        return parts


def _tokenize_chat(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    add_generation_prompt: bool,
    enable_thinking: bool,
    max_tokens: int | None,
) -> _TokenizedChat:
    def render(chat: Sequence[Message]) -> str:
        return tokenizer.render_chat(chat, add_generation_prompt, enable_thinking)

    text, spans = content_spans(messages, render)
    if max_tokens is not None:
        tokenizer.require_room(text, max_tokens)
    ids, offsets = tokenizer.encode_with_offsets(text)
    found = sorted((span, index) for index, span in enumerate(spans) if span is not None)
    ranges: dict[int, tuple[int, int]] = {}
    token = 0
    for (start, end), index in found:
        # A token that reaches over an edge of the content belongs to the content.
        while token < len(ids) and offsets[token][1] <= start:
            token += 1
        first = token
        while token < len(ids) and offsets[token][0] < end:
            token += 1
        if token > first:
            ranges[index] = (first, token)
    return _TokenizedChat(tuple(ids), ranges)


def _split_last(sections: list[Section]) -> list[Section]:
    """The message before an empty end gives its last token to the last section, which is not
    fused."""
    *head, message, rest = sections
    tails = [
        ids[-1:] + after for ids, after in zip(message.sharer_ids, rest.sharer_ids, strict=True)
    ]
    fused = Section.of(
        message.receiver_ids[:-1], [ids[:-1] for ids in message.sharer_ids], message.mask
    )
    return [*head, fused, Section.of(message.receiver_ids[-1:], tails, UNFUSED)]


def _check_sections(
    num_ids: int, lengths_and_masks: Sequence[tuple[int, int]], num_sharers: int
) -> None:
    largest = (1 << num_sharers) - 1
    pairs = "pairs of a length and a mask, such as [(19, 1), (1, -1)]"
    check_kind("sections", lengths_and_masks, (list, tuple), pairs)
    for index, pair in enumerate(lengths_and_masks):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UsageError(f"section {index} is {shown(pair)}", f"give {pairs}")
        length, mask = pair
        check_count(f"the length of section {index}", length)
        check_count(f"the mask of section {index}", mask, UNFUSED)
        if length < 1:
            raise UsageError(
                f"section {index} has length {length}", "give every section at least one token"
            )
        if mask > largest:
            raise UsageError(
                f"section {index} has mask {mask}, but the bundle has {num_sharers} Sharer(s)",
                f"give -1 (not fused) or a mask from 1 to {largest}: bit i stands for Sharer i + 1",
            )
    total = sum(length for length, _ in lengths_and_masks)
    if total != num_ids:
        raise UsageError(
            f"the sections hold {total} tokens, the prompt has {num_ids}",
            "let the lengths add up to the prompt's length",
        )
    last_mask = lengths_and_masks[-1][1]
    if last_mask > 0:
        raise UsageError(
            f"the last section is fused (mask {last_mask}); it gives the first logits and is "
            "read by the Receiver alone",
            f"end with a section that is not fused, for example {num_ids - 1}:{last_mask},1:-1",
        )


def _not_a_table(path: Path, cause: str) -> BundleError:
    return BundleError.of(
        f"{path} is not an alignment table (int32, one Sharer id a Receiver id): {cause}",
        "copy the bundle again, or build it again",
    )
