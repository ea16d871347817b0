"""Texts that end an answer: found across pieces, and held back only as far as one may have begun."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """What comes before the first of some texts. Of two that end together the longer one counts."""

    def __init__(self, texts: Sequence[str]) -> None:
        """``texts``: none of them empty."""
        self._texts = tuple(texts)
        self._held = ""
        self.has_stopped = False

    def push(self, text: str) -> str:
        """What may be shown now that ``text`` has come."""
        if not self._texts:
            return text
        held = self._held + text
        found = [
            (place + len(stop), place) for stop in self._texts if (place := held.find(stop)) >= 0
        ]
        if found:
            self.has_stopped = True
            self._held = ""
            return held[: min(found)[1]]
        num_held = max(self._num_begun(held, stop) for stop in self._texts)
        self._held = held[len(held) - num_held :]
        return held[: len(held) - num_held]

    def finish(self) -> str:
        """What was held back of an answer that ends otherwise."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _num_begun(text: str, stop: str) -> int:
        """How many characters at the end of ``text`` may be the beginning of ``stop``."""
        for num_chars in range(min(len(text), len(stop) - 1), 0, -1):
            if text.endswith(stop[:num_chars]):
                return num_chars
        return 0
