"""How many answers are right, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from c2c_export.eval.statistics import wilson_interval


@dataclass(frozen=True)
class Score:
    """Right answers of all."""

    num_right: int
    num_items: int

    @classmethod
    def of(cls, answers: Sequence[str], expected: Sequence[str]) -> Score:
        """Exact matches."""
        pairs = zip(answers, expected, strict=True)
        return cls(sum(given == wanted for given, wanted in pairs), len(expected))

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.num_right / self.num_items

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, which stays inside 0 to 1."""
        return wilson_interval(self.num_right, self.num_items)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
