"""How many answers are right, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from c2c_export.eval.statistics import Accuracy


@dataclass(frozen=True)
class Score(Accuracy):
    """Right answers of all."""

    @classmethod
    def of(cls, answers: Sequence[str], expected: Sequence[str]) -> Score:
        """Exact matches."""
        pairs = zip(answers, expected, strict=True)
        return cls(sum(given == wanted for given, wanted in pairs), len(expected))

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.share
