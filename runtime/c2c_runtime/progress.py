"""How long work says how far it is: one type for all three packages."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[float, str], None]  # fraction from 0 to 1, what is being done


def unheard(fraction: float, doing: str) -> None:
    """An ``OnProgress`` for callers that do not listen."""
