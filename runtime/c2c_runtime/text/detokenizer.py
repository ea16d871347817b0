"""Ids -> text, piece by piece, as they are generated.

``tokenizers.decoders.DecodeStream`` is not used: it has no end (an incomplete last character is
lost), it decodes everything again while text ends in U+FFFD, and of a run of byte-fallback tokens
it shows characters that ``decode`` turns into U+FFFD when the run turns out to be invalid.
"""

from __future__ import annotations

import re

from c2c_runtime.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_MAX_PENDING = 32  # tokens without a clean end before the window is cut all the same


class StreamingDetokenizer:
    """Turns ids into text that never ends in half a character.

    The pieces of ``push`` and the one of ``finish`` joined are ``tokenizer.decode`` of all ids.
    Held back: the last character while it is U+FFFD, and a run of byte-fallback tokens until
    another token ends it. A window of the last few tokens is decoded at a time: ``_context``
    tokens that were shown before (so that rules for the start of a text do not apply), then the
    pending ones.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._byte_fallback = tokenizer.has_byte_fallback
        self._window: list[int] = []
        self._context = 0  # leading tokens of the window whose text ends on a whole character
        self._num_shown = 0  # leading characters of the window's text that were given out

    def push(self, id: int) -> str:
        """The text that is complete now that ``id`` is known; often empty."""
        token = self._tokenizer.token_text(id)
        if token is None or (self._skip_special_tokens and id in self._tokenizer.special_ids):
            return ""  # adds nothing to the text, and does not end a run of bytes either
        self._window.append(id)
        if self._byte_fallback and _BYTE_TOKEN.fullmatch(token):
            return ""
        text = self._decode(self._window)
        is_clean = not text.endswith(_REPLACEMENT)
        end = max(self._num_shown, len(text) if is_clean else len(text) - 1)
        piece = text[self._num_shown : end]
        self._num_shown = end
        if is_clean:
            self._slide()
        elif len(self._window) - self._context > _MAX_PENDING:
            self._cut(text)
        return piece

    def finish(self) -> str:
        """What is left, incomplete characters as U+FFFD. The next ``push`` starts a new text."""
        piece = self._decode(self._window)[self._num_shown :]
        self._window, self._context, self._num_shown = [], 0, 0
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, self._skip_special_tokens)

    def _slide(self) -> None:
        """Forget the context: the tokens shown since then are the new one, unless they are too
        little text to stand in for a beginning."""
        recent = self._window[self._context :]
        text = self._decode(recent)
        if text:
            self._window, self._num_shown = recent, len(text)
        self._context = len(self._window)

    def _cut(self, text: str) -> None:
        """Shorten a window that never ends cleanly (invalid bytes) where that changes no text."""
        for keep in range(4, 12):
            head, tail = self._window[:-keep], self._window[-keep:]
            head_text = self._decode(head)
            if len(head_text) <= self._num_shown and head_text + self._decode(tail) == text:
                self._window, self._context = tail, 0
                self._num_shown -= len(head_text)
                return
