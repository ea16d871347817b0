"""What several stages need and none may load twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Loads at the first call, and gives the same at every further one until it is told to forget."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._held: list[T] = []

    def __call__(self) -> T:
        """What was loaded."""
        if not self._held:
            self._held.append(self._load())
        return self._held[0]

    def forget(self) -> None:
        """Let go of it."""
        self._held.clear()
