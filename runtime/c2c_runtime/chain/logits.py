"""The Receiver's logits after its last token, left where the backend computed them until they are read.

A decode step on a GPU needs a few bytes of them on the host: the best token, or the candidates of a
top-k draw, which the graph has picked out. All logits are copied only for who asks for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from c2c_runtime.backends.backend import BoundGraph
from c2c_runtime.bundle import names


class Logits:
    """One row of a graph's logits. Holds until the next call of that graph; usable as an array."""

    def __init__(self, graph: BoundGraph, row: int = 0, *, has_top: bool = False) -> None:
        """``has_top``: whether the graph also gives the largest logits and their ids."""
        self._graph = graph
        self._row = row
        self._has_top = has_top

    def numpy(self) -> np.ndarray:
        """All of them, float32 [vocab_size]: memory that the next call overwrites."""
        row: np.ndarray = self._graph.read(names.LOGITS)[self._row]
        return row

    def copy(self) -> np.ndarray:
        """All of them, in memory of their own."""
        return self.numpy().copy()

    def candidates(self, num_tokens: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids, ascending, and logits of tokens that include the ``num_tokens`` largest and all as
        large as the last of these. None where only all logits tell."""
        if not self._has_top:
            return None
        values = self._graph.read(names.TOP_LOGITS)[self._row]
        if not 0 < num_tokens < len(values) or not values[num_tokens - 1] > values[-1]:
            return None
        ids = self._graph.read(names.TOP_IDS)[self._row]
        order = np.argsort(ids)
        return ids[order], values[order]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)
