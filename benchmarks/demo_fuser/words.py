"""Single words and their English glosses, from FreeDict's dictionaries as Debian packages them.

``apt install dict-freedict-fra-eng dict-freedict-spa-eng ...`` puts them into ``/usr/share/dictd``: an
index of (headword, offset, length), numbers in base 64, and a gzip file of entries. Neither is part of
this project: they are licensed under the GPL, versions 2 and later.
"""

from __future__ import annotations

import gzip
import random
import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DICTIONARIES = Path("/usr/share/dictd")
LANGUAGES = {
    "fra": "French",
    "spa": "Spanish",
    "ita": "Italian",
    "por": "Portuguese",
}

_DIGITS = {
    digit: value
    for value, digit in enumerate(
        string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    )
}
_REMARKS = re.compile(r"<[^>]*>|\[[^]]*\]|\([^)]*\)")
_NUMBER = re.compile(r"^\d+\.\s*")
_PRONUNCIATION = re.compile(r" /.*")
_WORD = re.compile(r"[^\W\d_]{3,20}")
_GLOSS = re.compile(r"[A-Za-z][A-Za-z' -]{1,23}")
_MAX_GLOSSES = 6


@dataclass(frozen=True)
class Word:
    """A word, the name of its language, and what it means in English, in the dictionary's order."""

    language: str
    text: str
    glosses: tuple[str, ...]

    @property
    def spelling(self) -> str:
        """Lower case without accents: words of one spelling are kept on one side of the split."""
        return plain_letters(self.text)


@dataclass(frozen=True)
class Split:
    """Words to train on, to watch the training with, and to measure with. No spelling is in two."""

    train: tuple[Word, ...]
    watched: tuple[Word, ...]
    held_out: tuple[Word, ...]


def plain_letters(text: str) -> str:
    """Lower case, accents dropped."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def read_words(directory: Path = DICTIONARIES) -> list[Word]:
    """The usable words of all languages: one word of letters, with a short gloss that is not the same
    word. Raises FileNotFoundError naming the packages to install."""
    words = []
    for code, language in LANGUAGES.items():
        glosses: dict[str, list[str]] = defaultdict(list)
        for entry in _entries(directory, code):
            head, *lines = entry.split("\n")
            word = _PRONUNCIATION.sub("", _REMARKS.sub("", head)).strip()
            if _WORD.fullmatch(word):
                glosses[word] += _glosses(lines)
        words += _usable(language, glosses)
    return words


def split_words(
    words: Sequence[Word], *, num_held_out: int = 400, num_watched: int = 100, seed: int = 5
) -> Split:
    """The held-out words are the same for every training; they are drawn from all languages alike."""
    by_spelling: dict[str, list[Word]] = defaultdict(list)
    for word in words:
        by_spelling[word.spelling].append(word)
    spellings = sorted(by_spelling)
    random.Random(seed).shuffle(spellings)
    shares: dict[str, list[Word]] = {language: [] for language in LANGUAGES.values()}
    each = (num_held_out + num_watched) // len(shares)
    train = []
    for spelling in spellings:
        found = by_spelling[spelling]
        share = shares[found[0].language]
        if len(share) < each:
            share.append(found[0])
        else:
            train += found
    watched = num_watched // len(shares)
    return Split(
        tuple(train),
        tuple(word for share in shares.values() for word in share[:watched]),
        tuple(word for share in shares.values() for word in share[watched:]),
    )


def _usable(language: str, glosses: Mapping[str, Sequence[str]]) -> Iterator[Word]:
    for text, found in sorted(glosses.items()):
        known = tuple(dict.fromkeys(found))[:_MAX_GLOSSES]
        if known and plain_letters(text) not in map(plain_letters, known):
            yield Word(language, text, known)


def _glosses(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        for gloss in _NUMBER.sub("", _REMARKS.sub("", line)).split(","):
            text = gloss.strip()
            if _GLOSS.fullmatch(text):
                yield text


def _entries(directory: Path, code: str) -> Iterator[str]:
    index, data = (directory / f"freedict-{code}-eng{suffix}" for suffix in (".index", ".dict.dz"))
    if not index.is_file():
        packages = " ".join(f"dict-freedict-{code}-eng" for code in LANGUAGES)
        raise FileNotFoundError(f"{index} is missing -> apt install {packages}")
    with gzip.open(data) as file:
        text = file.read()
    for line in index.read_text(encoding="utf-8").splitlines():
        _, offset, length = line.split("\t")[:3]
        start = _number(offset)
        yield text[start : start + _number(length)].decode("utf-8", errors="replace")


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value
