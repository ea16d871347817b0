"""Which option an output names. docs/evaluation.md states the rules; the numbers below are theirs.

The first rule that finds something decides. What names several options names none: no answer is
guessed. Pure functions of text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from c2c_export.eval.option_labels import OptionLabels
from c2c_export.eval.short_answers import normalised

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|rm)\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"[*`$_#]+")
# Where an output takes back what it said. "No" only as a word of its own before a pause.
_CORRECTION = re.compile(
    r"\b(?:actually|correction|on second thought|let me correct|scratch that|wait|sorry)\b|\bno\b(?=\s*[,.:;-])",
    re.IGNORECASE,
)
_NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Q)\s*\d*\s*:", re.IGNORECASE)


def extract_choice(output: str, labels: Sequence[str], texts: Sequence[str]) -> int | None:
    """The index of the option that ``output`` names, or None.

    ``labels`` and ``texts``: of the item's options, in order. Nothing else counts as a label.
    """
    text = _plain(output)
    if not text:
        return None
    names = OptionLabels(tuple(unicodedata.normalize("NFKC", label) for label in labels))
    found = names.boxed(text)  # 1
    if found is not None:
        return found
    text = _without_markup(text)
    whole = names.whole(text)  # 2
    if whole is not None:
        return whole
    whole = _whole_text(text, texts)  # 3
    if whole is not None:
        return whole
    corrections = list(_CORRECTION.finditer(text))
    if corrections:  # 4
        corrected = _said(text[corrections[-1].end() :], names, texts)
        if corrected is not None:
            return corrected
    return _said(text, names, texts)


def without_thoughts(output: str) -> str:
    """The output without what stands in thinking tags. A thought whose begin is not there hides all
    before its end, and one without an end all after it."""
    text = _THOUGHT_ENDS.split(_THOUGHT.sub(" ", output))[-1]
    return _THOUGHT_BEGINS.split(text)[0]


def _plain(output: str) -> str:
    text = unicodedata.normalize("NFKC", without_thoughts(output)).strip()
    text = text.replace("’", "'")
    text = _LATEX.sub(r"\1", text).replace("\\(", " ").replace("\\)", " ")
    cut = _NEXT_QUESTION.search(text)
    return text[: cut.start()].strip() if cut else text


def _without_markup(text: str) -> str:
    return re.sub(r"[ \t]+", " ", _MARKUP.sub("", text)).strip()


def _whole_text(text: str, texts: Sequence[str]) -> int | None:
    wanted = normalised(text)
    return _only(index for index, option in enumerate(texts) if wanted == normalised(option))


def _said(text: str, names: OptionLabels, texts: Sequence[str]) -> int | None:
    """Rules 5 to 8, of an output or of what comes after a correction."""
    statements = names.stated(text)
    if statements:  # 5; the last one that is clear
        return next((found for found in reversed(statements) if found is not None), None)
    leading = names.leading(text, texts)
    if leading:  # 6
        return _only(leading)
    spans = list(_text_spans(text, texts))
    singles = names.alone(_masked(text, [span for _, span in spans]))
    if singles:  # 7
        return _only(singles)
    return _only(index for index, _ in spans)  # 8


def _text_spans(text: str, texts: Sequence[str]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Where options' texts stand as whole words. One inside another's does not count."""
    found = []
    for index, option in enumerate(texts):
        words = _without_markup(unicodedata.normalize("NFKC", option)).rstrip(".")
        if len(words) > 2:
            pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
            found += [(index, m.span()) for m in re.finditer(pattern, text, re.IGNORECASE)]
    for index, (start, end) in found:
        if not any(a <= start and end <= b and (a, b) != (start, end) for _, (a, b) in found):
            yield index, (start, end)


def _masked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in spans:
        text = text[:start] + "\u0000" * (end - start) + text[end:]
    return text


def _only(indices: Iterator[int] | Sequence[int]) -> int | None:
    found = set(indices)
    return found.pop() if len(found) == 1 else None
