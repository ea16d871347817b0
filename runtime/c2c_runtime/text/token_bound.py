"""How few tokens a text can have: told from its length, without cutting it into tokens.

True only of tokenizers that leave nothing out, so what a tokenizer is made of is looked at, and of parts
that are not known nothing is promised.
"""

from __future__ import annotations

import re

import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

# Parts that drop nothing; NFC makes one character of four at most.
_KEEPING_NORMALIZERS = {"Sequence", "NFC", "Prepend", "Replace", "String"}
_KEEPING_SPLITS = {"Sequence", "ByteLevel", "Split", "Metaspace", "Digits", "String", "Regex"}
_MOST_PER_COMPOSED = 4
_REPLACED_BY_AS_MUCH = re.compile(r'Replace\(pattern=String\("."\), content="[^"]+"\)')
_PART = re.compile(r"\b([A-Z]\w*)\(")


class TokenBound:
    """The bound of one tokenizer."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        added = backend.get_added_tokens_decoder().values()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        normalizer = str(backend.normalizer or "")
        per_token = max(map(len, vocabulary), default=1)
        if "NFC" in normalizer:
            per_token *= _MOST_PER_COMPOSED
        self._max_chars_a_token = per_token if _keeps_all(backend, vocabulary) else None
        self._drops_spaces = any(token.lstrip or token.rstrip for token in added)

    def min_num_tokens(self, text: str) -> int:
        """``text`` has at least so many; 0 where nothing is known."""
        if self._max_chars_a_token is None:
            return 0
        size = sum(map(len, text.split())) if self._drops_spaces else len(text)
        return -(-size // self._max_chars_a_token)


def _keeps_all(backend: tokenizers.Tokenizer, vocabulary: dict[str, int]) -> bool:
    """Whether every character of a text is in some token."""
    normalizer, splits = str(backend.normalizer or ""), str(backend.pre_tokenizer or "")
    known = (
        set(_PART.findall(_without_strings(normalizer))) <= _KEEPING_NORMALIZERS
        and normalizer.count("Replace(") == len(_REPLACED_BY_AS_MUCH.findall(normalizer))
        and set(_PART.findall(_without_strings(splits))) <= _KEEPING_SPLITS
        and "behavior=Removed" not in splits
        and type(backend.model).__name__ == "BPE"
    )
    is_of_bytes = "ByteLevel" in splits and vocabulary.keys() >= set(ByteLevel.alphabet())
    falls_back = "ByteFallback" in str(backend.decoder) and all(
        f"<0x{byte:02X}>" in vocabulary for byte in range(256)
    )
    return known and (is_of_bytes or falls_back)


def _without_strings(parts: str) -> str:
    """What a tokenizer is made of, without the patterns, which may hold any word."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', parts)
