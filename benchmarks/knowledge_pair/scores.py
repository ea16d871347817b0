"""How many answers are right, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959964  # of the normal distribution, for 95 %


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
        n, p, z = self.num_items, self.accuracy, _Z
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(center - half, 0.0), min(center + half, 1.0)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
