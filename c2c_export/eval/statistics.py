"""How sure a comparison is: intervals of shares and of their paired difference, and an exact test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_Z = 1.959964  # of the normal distribution, for 95 %

Interval = tuple[float, float]


def wilson_interval(num_right: int, num_items: int) -> Interval:
    """The 95 % score interval of a share (Wilson 1927); it stays inside 0 to 1. No items: 0 to 1."""
    if num_items == 0:
        return 0.0, 1.0
    n, p, z = num_items, num_right / num_items, _Z
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(center - half, 0.0), min(center + half, 1.0)


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers, with its 95 % interval (Wilson)."""

    num_right: int
    num_items: int

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.num_right / self.num_items if self.num_items else 0.0

    @property
    def interval(self) -> Interval:
        """Wilson's, 95 %."""
        return wilson_interval(self.num_right, self.num_items)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

    def as_json(self) -> dict[str, Any]:
        """With the interval."""
        return asdict(self) | {"accuracy": self.share, "interval_95": list(self.interval)}


@dataclass(frozen=True)
class Paired:
    """Two ways to answer the same items: how many both, one, the other, or neither got right."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> Paired:
        """Count items, in the same order."""
        pairs = list(zip(first, second, strict=True))
        both, only_first = pairs.count((True, True)), pairs.count((True, False))
        only_second, neither = pairs.count((False, True)), pairs.count((False, False))
        return cls(both, only_first, only_second, neither)

    @property
    def num_items(self) -> int:
        """All of them."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Share of right answers of the first, minus that of the second; -1 to 1."""
        return (self.only_first - self.only_second) / self.num_items if self.num_items else 0.0

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the difference, from Wilson's intervals and the correlation of the two.

        Method 10 of Newcombe, Improved confidence intervals for the difference between binomial
        proportions based on paired data, Statistics in Medicine 17 (1998). No items: -1 to 1.
        """
        n = self.num_items
        if n == 0:
            return -1.0, 1.0
        first, second = self.both + self.only_first, self.both + self.only_second
        (low1, high1), (low2, high2) = wilson_interval(first, n), wilson_interval(second, n)
        p1, p2, phi = first / n, second / n, self._correlation
        below = _joined(p1 - low1, high2 - p2, phi)
        above = _joined(high1 - p1, p2 - low2, phi)
        return max(self.difference - below, -1.0), min(self.difference + above, 1.0)

    @property
    def _correlation(self) -> float:
        """Phi of the four counts, with that method's continuity correction where it is positive."""
        first, second = self.both + self.only_first, self.both + self.only_second
        n = self.num_items
        product = first * (n - first) * second * (n - second)
        if product == 0:
            return 0.0
        excess: float = self.both * self.neither - self.only_first * self.only_second
        if excess > 0:
            excess = max(excess - n / 2, 0.0)
        return excess / math.sqrt(product)

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how likely a split of the items that only one got right is,
        at least as uneven as this one, if either were right as often as the other."""
        num_split = self.only_first + self.only_second
        fewer = min(self.only_first, self.only_second)
        tail = sum(math.comb(num_split, count) for count in range(fewer + 1))
        p_value: float = 2 * tail / 2**num_split
        return min(p_value, 1.0)


def _joined(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(one * one - 2 * correlation * one * other + other * other, 0.0))


def share_alike(first: Sequence[str | None], second: Sequence[str | None]) -> float:
    """Share of items with the same answer; none on both sides is none that is the same. 0 to 1."""
    pairs = list(zip(first, second, strict=True))
    alike = sum(one is not None and one == other for one, other in pairs)
    return alike / len(pairs) if pairs else 0.0
