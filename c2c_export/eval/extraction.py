"""Which option an output names. docs/evaluation.md states the rules; the numbers below are theirs.

The first rule that finds something decides. What names several options names none: no answer is
guessed. Pure functions of text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

_STATEMENT_BEGINS = (
    r"\b(?:answer|choice|option|solution)(?:\s+(?:choice|option|letter))?"
    r"(?:\s+to\s+(?:this|the)\s+question)?"
    r"(?:\s*(?:is|was|would\s+be|should\s+be|must\s+be|will\s+be)\b\s*:?|\s*[:=]|'s)"
    r"(?:\s*(?:clearly|therefore|thus|definitely|probably|likely|indeed|simply))?"
    r"(?:\s*(?:the\s+)?(?:option|choice|letter|answer)\b)?",
    r"\b(?:choose|chose|pick|select|go\s+with|go\s+for|opt\s+for)"
    r"(?:\s+(?:option|choice|letter|answer))?",
    r"答案\s*(?:应该|应当|应)?\s*(?:是|为|选)?\s*:?",
    r"(?:选择|选项|选)\s*(?:是|为)?\s*:?",
)
_IT_IS = r"\b(?:it|that|this)(?:'s|\s+is|\s+must\s+be|\s+should\s+be|\s+has\s+to\s+be)(?:\s+(?:option|choice|letter))?"
_VERDICT = r"\s*(?:is|was|must\s+be|seems)\s+(?:clearly\s+|definitely\s+)?(?:the\s+)?(?:only\s+)?(?:correct|right|best|true|answer)"
_DENIAL = r"\s*(?:is|was|are|must\s+be|can|does)?\s*(?:n't|not\b|wrong|incorrect|false)|\s+(?:is|was|are)\s+(?:clearly\s+)?(?:n't|not\b|wrong|incorrect|false|out\b)"
# After a label that could be an article or a pronoun, a word has to be one of these.
_AFTER = r"because|since|as|due|which|that|for|is|was|it|the"
_OR = r"\s*(?:/|,|;|、|或|和|&|\||\bor\b|\band\b)\s*(?:\b(?:or|and|option|choice)\b\s*)*[(\[]?"


def extract_choice(output: str, labels: Sequence[str], texts: Sequence[str]) -> int | None:
    """The index of the option that ``output`` names, or None.

    ``labels`` and ``texts``: of the item's options, in order. Nothing else counts as a label.
    """
    text = _plain(output)
    if not text:
        return None
    names = _Labels(tuple(unicodedata.normalize("NFKC", label) for label in labels))
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
    text = text.replace("’", "'").replace("\\boxed", "\u0000boxed")
    text = _LATEX.sub(r"\1", text).replace("\\(", " ").replace("\\)", " ")
    cut = _NEXT_QUESTION.search(text)
    return text[: cut.start()].strip() if cut else text


def _without_markup(text: str) -> str:
    return re.sub(r"[ \t]+", " ", _MARKUP.sub("", text)).strip()


def _whole_text(text: str, texts: Sequence[str]) -> int | None:
    wanted = normalised(text)
    return _only(index for index, option in enumerate(texts) if wanted == normalised(option))


def _said(text: str, names: _Labels, texts: Sequence[str]) -> int | None:
    """Rules 5 to 8, of an output or of what comes after a correction."""
    statements = names.statements(text)
    if statements:  # 5; the last one that is clear
        return next((found for found in reversed(statements) if found is not None), None)
    leading = names.leading(text)
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


@dataclass(frozen=True)
class _Labels:
    """How options are called, and where a text calls one."""

    labels: tuple[str, ...]

    def boxed(self, text: str) -> int | None:
        """The last ``\\boxed{C}`` that holds a label alone."""
        held = re.findall(r"\x00boxed\s*\{\s*\(?([^{}]*?)\)?[.]?\s*\}", text)
        indices = [index for words in held if (index := self._index(words.strip())) is not None]
        return indices[-1] if indices else None

    def whole(self, text: str) -> int | None:
        """The label that is all there is, once or again and again."""
        words = [word for word in re.split(r"[\s()\[\]{}<>.,:;!?'\"|。、,]+", text) if word]
        indices = {self._index(word) for word in words}
        return indices.pop() if len(indices) == 1 else None

    def statements(self, text: str) -> list[int | None]:
        """What each "the answer is ..." names, in order; None where that is several labels."""
        begins = "|".join(_STATEMENT_BEGINS)
        before = [
            (match.start("label"), self._unless_several(text, match))
            for pattern in (rf"(?i:{begins})", rf"(?i:{_IT_IS})")
            for match in re.finditer(rf"{pattern}\s*[(\[\"']?{self._label(True)}", text)
        ]
        after = [
            (match.start("label"), self._index(match["label"]))
            for match in re.finditer(rf"{self._label(False)}[)\]\"']?(?i:{_VERDICT})", text)
            if not re.search(r"(?i)\b(?:or|and|neither|nor|not)\s*[(\[]?$", text[: match.start()])
        ]
        return [index for _, index in sorted(before + after, key=lambda found: found[0])]

    def leading(self, text: str) -> list[int]:
        """Labels that begin a line as in "B. Rome", "(b) Rome", "B - Rome" or "B because"."""
        pattern = rf"^[\s>]*(?:(?i:option|choice)\s+)?(?:[(\[](?P<in>{self._any})[)\]]|(?P<label>{self._any})(?:[.):\]](?!\d)|\s+[-–—]\s|\s+(?i:{_AFTER})\b|\s*$|,(?!\s*[(]?(?:{self._any})\b)))"
        matches = re.finditer(pattern, text, re.MULTILINE)
        found = []
        for match in matches:
            name = match["in"] or match["label"]
            index = self._index(name)
            is_word = (
                name.islower()
                and match["label"]
                and not re.match(r"[.):\]]", text[match.end("label") :])
            )
            if index is not None and not is_word and not self._is_denied(text, match.end()):
                found.append(index)
        return found

    def alone(self, text: str) -> list[int]:
        """Labels anywhere: capitals and digits by themselves, or any in brackets."""
        found = []
        pattern = rf"(?<![\w'.-])(?:[(\[](?P<in>{self._any})[)\]]|(?P<label>{self._any}))(?![\w'’]|[.,/-]\d|-\w)"
        for match in re.finditer(pattern, text, re.ASCII):
            name = match["in"] or match["label"]
            rest = text[match.end() :]
            if match["label"]:
                if name.islower():
                    continue
                is_article = re.match(rf"\s+(?!(?i:or|and|but|{_AFTER})\b)\w", rest) is not None
                if is_article and (name in ("A", "I") or name.isdigit()):
                    continue
            if self._is_denied(text, match.end()) or re.search(
                r"(?i)\bnot\s+$", text[: match.start()]
            ):
                continue
            index = self._index(name)
            if index is not None:
                found.append(index)
        return found

    @property
    def _any(self) -> str:
        """A pattern of every label, small ones, too."""
        spellings = {spelling for label in self.labels for spelling in (label, label.lower())}
        return "|".join(re.escape(word) for word in sorted(spellings, key=len, reverse=True))

    def _label(self, is_last: bool) -> str:
        """A label that is no part of a word; ``is_last``: nor an article before one."""
        if not is_last:
            capitals = "|".join(re.escape(label) for label in self.labels)
            return rf"(?<![A-Za-z0-9'])(?P<label>{capitals})(?![A-Za-z0-9'])"
        end = rf"(?=\s*$|\s*[^\s\w]|\s+(?i:{_AFTER}|or|and)\b|\s*\n|\s*[\u3040-\u9fff])"
        plain = [label for label in self.labels if label not in ("A", "I") and not label.isdigit()]
        freely = "|".join(re.escape(label) for label in plain) or r"(?!)"
        return (
            rf"(?P<label>(?<![A-Za-z0-9])(?:(?:{freely})(?![A-Za-z0-9'])|(?:{self._any})"
            rf"(?![A-Za-z0-9']|[.,]\d){end}))"
        )

    def _unless_several(self, text: str, match: re.Match[str]) -> int | None:
        rest = text[match.end("label") :].lstrip(")]\"'")
        several = re.match(rf"(?:{_OR})(?:{self._any})(?![A-Za-z0-9'])", rest, re.IGNORECASE)
        return None if several else self._index(match["label"])

    def _is_denied(self, text: str, end: int) -> bool:
        return re.match(rf"[)\]]?(?i:{_DENIAL})", text[end:]) is not None

    def _index(self, name: str) -> int | None:
        if name in self.labels:
            return self.labels.index(name)
        small = [label.lower() for label in self.labels]
        return small.index(name.lower()) if name.lower() in small else None
