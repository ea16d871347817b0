"""Where each message's content stands in a rendered chat.

Searching for the content is not enough: it may repeat, stand inside the template's own words, or be
trimmed or dropped by the template. So the chat is rendered again with marks in place of contents;
what surrounds the marks is the template's, what stands between is the message's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from c2c_runtime.errors import UsageError
from c2c_runtime.text.messages import Message, check_messages

Span = tuple[int, int]
Render = Callable[[Sequence[Message]], str]


def content_spans(messages: Sequence[Message], render: Render) -> tuple[str, list[Span | None]]:
    """The rendered chat and the characters ``text[start:end]`` of each message's content.

    None: the message has no content, or the template leaves it out. Spans never overlap. Where a
    template treats content differently according to what it says (drops reasoning, for example),
    the span holds what it made of it.

    Raises ``UsageError`` if a content is not text or the template refuses the chat.
    """
    check_messages(messages)
    contents = [_content(index, message) for index, message in enumerate(messages)]
    text = render(messages)
    marks = _marks(text, messages, contents)
    spans = _spans_of_all(messages, contents, marks, text, render)
    if spans is None:
        spans = _spans_one_by_one(messages, contents, marks, text, render)
    return text, spans


def _content(index: int, message: Message) -> str:
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise UsageError(
            f"the content of message {index} is {type(content).__name__}, not text",
            "give text; C2C pairs read nothing else",
        )
    return content or ""


def _marks(text: str, messages: Sequence[Message], contents: Sequence[str]) -> dict[int, str]:
    """A word that stands nowhere else, for every message that says something."""
    taken = text + repr(messages)
    stem = "c2cmark"
    while stem in taken:
        stem += "k"
    return {index: f"{stem}q{index}z" for index, content in enumerate(contents) if content.strip()}


def _marked(messages: Sequence[Message], marks: Mapping[int, str]) -> list[Message]:
    return [
        {**message, "content": marks[index]} if index in marks else message
        for index, message in enumerate(messages)
    ]


def _render_marked(
    messages: Sequence[Message], marks: Mapping[int, str], render: Render
) -> str | None:
    """The chat with marks, or None if the template does not take them for contents."""
    try:
        return render(_marked(messages, marks))
    except UsageError:
        return None


def _spans_of_all(
    messages: Sequence[Message],
    contents: Sequence[str],
    marks: Mapping[int, str],
    text: str,
    render: Render,
) -> list[Span | None] | None:
    """Spans from one rendering with every content marked, or None if the rendered chat is not the
    template's text with each content, perhaps trimmed, in between."""
    spans: list[Span | None] = [None] * len(messages)
    if not marks:
        return spans
    marked = _render_marked(messages, marks, render)
    if marked is None:
        return None
    index_of = {mark: index for index, mark in marks.items()}
    pieces = re.split("(" + "|".join(re.escape(mark) for mark in index_of) + ")", marked)
    literals, slots = pieces[0::2], [index_of[mark] for mark in pieces[1::2]]
    if not text.startswith(literals[0]):
        return None
    position = len(literals[0])
    for slot, literal in zip(slots, literals[1:], strict=True):
        content = contents[slot]
        variants = (content, content.rstrip(), content.lstrip(), content.strip())
        match = next((v for v in variants if text.startswith(v + literal, position)), None)
        if match is None:
            return None
        if spans[slot] is None:  # a template that repeats a content: the first one counts
            spans[slot] = (position, position + len(match))
        position += len(match) + len(literal)
    return spans if position == len(text) else None


def _spans_one_by_one(
    messages: Sequence[Message],
    contents: Sequence[str],
    marks: Mapping[int, str],
    text: str,
    render: Render,
) -> list[Span | None]:
    """Spans from one rendering a message, only that message marked."""
    spans: list[Span | None] = [None] * len(messages)
    end = 0
    for index, mark in marks.items():
        marked = _render_marked(messages, {index: mark}, render)
        if marked is not None and mark not in marked:
            continue
        span = None if marked is None else _region(text, marked, mark)
        span = _search(text, contents[index], *(span or (end, len(text)))) or span
        if span is not None and span[0] >= end and span[1] > span[0]:
            spans[index] = span
            end = span[1]
    return spans


def _region(text: str, marked: str, mark: str) -> Span | None:
    """What stands in ``text`` where ``marked`` has the mark, or None if they differ elsewhere."""
    before, _, after = marked.partition(mark)
    is_same = text.startswith(before) and text.endswith(after)
    if not is_same or len(before) + len(after) > len(text):
        return None
    return len(before), len(text) - len(after)


def _search(text: str, content: str, start: int, end: int) -> Span | None:
    """The content, trimmed, between ``start`` and ``end``: at its end if it stands there, since
    what templates add comes before; otherwise where it stands first."""
    words = content.strip()
    found = end - len(words)
    if found < start or not text.startswith(words, found):
        found = text.find(words, start, end)
    return None if found < 0 else (found, found + len(words))
