"""Where a text calls an option by its label. ``extraction`` says in which order these count.

A label is a letter or a number. Small letters count only where nothing else is meant by them, and
"A" and "I" not where they are an article or a pronoun.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from c2c_export.eval.short_answers import normalised

_WORDS = ("A", "I")  # labels that are English words, too
_OPTION = r"(?:option|choice|letter|answer)"
_STATEMENTS = (
    # the answer is, correct option: , my choice would clearly be option
    rf"\b(?:answer|choice|option|solution)(?:\s+{_OPTION})?(?:\s+to\s+(?:this|the)\s+question)?"
    r"(?:\s*(?:is|was|would\s+be|should\s+be|must\s+be|will\s+be)\b\s*:?|\s*[:=]|'s)"
    r"(?:\s*(?:clearly|therefore|thus|definitely|probably|likely|indeed|simply))?"
    rf"(?:\s*(?:the\s+)?{_OPTION}\b)?",
    # I choose option
    rf"\b(?:choose|chose|pick|select|go\s+with|go\s+for|opt\s+for)(?:\s+{_OPTION})?",
    # it is, that must be
    rf"\b(?:it|that|this)(?:'s|\s+is|\s+must\s+be|\s+should\s+be|\s+has\s+to\s+be)(?:\s+{_OPTION})?",
    # the answer is, I choose
    r"答案\s*(?:应该|应当|应)?\s*(?:是|为|选)?\s*:?",
    r"(?:选择|选项|选)\s*(?:是|为)?\s*:?",
)
_VERDICT = (
    r"\s*(?:is|was|must\s+be|seems)\s+(?:clearly\s+|definitely\s+)?(?:the\s+)?(?:only\s+)?"
    r"(?:correct|right|best|true|answer)"
)
_DENIED = r"[)\]]?\s*(?:(?:is|was|are|must\s+be|can|does)\s*)?(?:clearly\s+)?(?:n't|not\b|wrong|incorrect|false|out\b)"
_NOT = re.compile(r"\b(?:or|and|neither|nor|not)\s*[(\[]?$", re.IGNORECASE)
_OR = r"\s*(?:/|,|;|、|或|和|&|\||\bor\b|\band\b)\s*(?:\b(?:or|and|option|choice)\b\s*)*[(\[]?"
# A word after "A" or "I" that shows that it is a label.
_AFTER = r"because|since|as|due|which|that|for|is|was|it|the"
_SEPARATORS = re.compile(r"[\s()\[\]{}<>.,:;!?'\"|。、]+")
_CONTEXT = 40  # characters before or after a label that say what is meant by it


@dataclass(frozen=True)
class OptionLabels:
    """The labels of an item's options, in order. Every method gives indices into them."""

    labels: tuple[str, ...]

    def boxed(self, text: str) -> int | None:
        """The last ``boxed{C}`` that holds a label alone."""
        held = re.findall(r"\bboxed\s*\{\s*\(?([^{}]*?)\)?\.?\s*\}", text)
        found = [index for word in held if (index := self.index(word.strip())) is not None]
        return found[-1] if found else None

    def whole(self, text: str) -> int | None:
        """The label that is all there is, once or again and again, in capitals or small."""
        found = {self.index(word) for word in _SEPARATORS.split(text) if word}
        return found.pop() if len(found) == 1 else None

    def stated(self, text: str) -> list[int | None]:
        """What each "the answer is ..." or "... is correct" names, in order; None where that is several
        labels at once."""
        found: list[tuple[int, int | None]] = []
        for pattern in self._statements:
            for match in pattern.finditer(text):
                found.append((match.start("label"), self._one_of(text, match)))
        for match in self._verdict.finditer(text):
            if not _NOT.search(text[max(match.start() - _CONTEXT, 0) : match.start()]):
                found.append((match.start("label"), self.index(match["label"])))
        return [index for _, index in sorted(found, key=lambda one: one[0])]

    def leading(self, text: str, texts: Sequence[str]) -> list[int]:
        """Labels that begin a line, as in "B. Rome", "(b) Rome", "B - Rome" or "B because".

        "A:" may stand for "answer", and counts only before the text of its option (``texts``).
        """
        found = []
        for match in self._leading.finditer(text):
            name = match["bracketed"] or match["label"]
            index = self.index(name)
            is_word = match["label"] and name.islower() and match["mark"] is None
            if index is None or is_word or self._is_denied(text, match.end()):
                continue
            if name.upper() == "A" and match["mark"] == ":":
                line = text[match.end() :].split("\n", 1)[0]
                if not normalised(line).startswith(normalised(texts[index])):
                    continue
            found.append(index)
        return found

    def alone(self, text: str) -> list[int]:
        """Labels anywhere by themselves: in capitals or digits, or any in brackets."""
        found = []
        for match in self._alone.finditer(text):
            name, rest = match["bracketed"] or match["label"], text[match.end() :][:_CONTEXT]
            if match["label"] and (name.islower() or self._is_word(name, rest)):
                continue
            before = text[max(match.start() - _CONTEXT, 0) : match.start()]
            if self._is_denied(text, match.end()) or re.search(r"(?i)\bnot\s+$", before):
                continue
            index = self.index(name)
            if index is not None:
                found.append(index)
        return found

    def index(self, name: str) -> int | None:
        """Which option is called ``name``, in capitals or small; None: none."""
        if name in self.labels:
            return self.labels.index(name)
        small = [label.lower() for label in self.labels]
        return small.index(name.lower()) if name.lower() in small else None

    @cached_property
    def _any(self) -> str:
        """A pattern of every label, in capitals or small."""
        spellings = {word for label in self.labels for word in (label, label.lower())}
        return "|".join(re.escape(word) for word in sorted(spellings, key=len, reverse=True))

    @cached_property
    def _statements(self) -> tuple[re.Pattern[str], ...]:
        """Capitals that are no words count whatever follows; other labels only at an end, before
        punctuation, or before a word that shows what they are."""
        clear = [label for label in self.labels if label not in _WORDS and not label.isdigit()]
        freely = "|".join(map(re.escape, clear)) or r"(?!)"
        end = rf"(?=\s*$|\s*[^\s\w]|\s+(?i:{_AFTER}|or|and)\b|\s*\n|\s*[\u3040-\u9fff])"
        no_part = r"(?![A-Za-z0-9'])"
        label = rf"(?<![A-Za-z0-9])(?P<label>(?:{freely}){no_part}|(?:{self._any}){no_part}(?![.,]\d){end})"
        return tuple(re.compile(rf"(?i:{begin})\s*[(\[\"']?{label}") for begin in _STATEMENTS)

    @cached_property
    def _verdict(self) -> re.Pattern[str]:
        capitals = "|".join(map(re.escape, self.labels))
        label = rf"(?<![A-Za-z0-9'])(?P<label>{capitals})(?![A-Za-z0-9'])"
        return re.compile(rf"{label}[)\]\"']?(?i:{_VERDICT})")

    @cached_property
    def _leading(self) -> re.Pattern[str]:
        comma = rf",(?!\s*[(\[]?(?:{self._any})\b)"  # not of a list of labels
        after = rf"(?P<mark>[.):\]])(?!\d)|\s+[-–—]\s|\s+(?i:{_AFTER})\b|\s*$|{comma}"
        label = rf"[(\[](?P<bracketed>{self._any})[)\]]|(?P<label>{self._any})(?:{after})"
        return re.compile(rf"^[\s>]*(?:(?i:option|choice)\s+)?(?:{label})", re.MULTILINE)

    @cached_property
    def _alone(self) -> re.Pattern[str]:
        label = rf"[(\[](?P<bracketed>{self._any})[)\]]|(?P<label>{self._any})"
        return re.compile(rf"(?<![\w'.-])(?:{label})(?![\w']|[.,/-]\d|-\w)", re.ASCII)

    def _one_of(self, text: str, match: re.Match[str]) -> int | None:
        """The label of a statement; None if others follow it, as in "A or B" or "A/B/C"."""
        rest = text[match.end("label") :][:_CONTEXT].lstrip(")]\"'")
        several = re.match(rf"(?i:{_OR}(?:{self._any}))(?![A-Za-z0-9'])", rest)
        return None if several else self.index(match["label"])

    def _is_word(self, name: str, rest: str) -> bool:
        """Whether a capital or a number before ``rest`` is an article, a pronoun or a count there."""
        if name == "A" and rest.startswith(":"):
            return True
        follows = re.match(rf"\s+(?!(?i:or|and|but|{_AFTER})\b)\w", rest) is not None
        return follows and (name in _WORDS or name.isdigit())

    def _is_denied(self, text: str, end: int) -> bool:
        return re.match(rf"(?i){_DENIED}", text[end:][:_CONTEXT]) is not None
