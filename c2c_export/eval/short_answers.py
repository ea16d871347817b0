"""Short answers: the part of an output that counts, and when it equals an accepted text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PREFIX = re.compile(
    r"^(?:so\s+|therefore\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:)\s*:?",
    re.IGNORECASE,
)


def normalised(text: str) -> str:
    """``text`` without what does not make another answer: width and case of letters, punctuation,
    English articles, white space.

    A point between digits and a minus before a digit stay, since they make another number; a comma
    between digits goes. Any other hyphen or slash is a space. A text of nothing else keeps its words.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = "".join(_kept(text, place) for place in range(len(text)))
    words = " ".join(text.split())
    return " ".join(_ARTICLES.sub(" ", words).split()) or words


def _kept(text: str, place: int) -> str:
    char = text[place]
    before = text[place - 1 : place]
    after = text[place + 1 : place + 2]
    if char == "." and before.isdigit() and after.isdigit():
        return char
    if char in "-−" and after.isdigit() and not before.isalnum():
        return "-"
    if unicodedata.category(char) == "Pd" or char in "/−":
        return " "
    return "" if unicodedata.category(char).startswith("P") else char


def short_answer(output: str) -> str:
    """What of an output is the answer: its first line with something on it, without "The answer is"."""
    lines = (line.strip() for line in output.strip().splitlines())
    first = next((line for line in lines if line), "")
    return _PREFIX.sub("", first).strip()


def is_accepted(answer: str, accepted: Sequence[str]) -> bool:
    """Whether a short answer equals one of the accepted texts, both ``normalised``."""
    found = normalised(answer)
    return bool(found) and any(found == normalised(text) for text in accepted)
