"""A backend that notes when its graphs compute, so that a step can be split without a timer in the
runtime."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from c2c_runtime.backends.backend import Backend, BoundGraph, Buffer, Graph, Memory

Span = tuple[float, float]  # from, to; seconds of time.perf_counter


@dataclass(frozen=True)
class GraphCall:
    """One run of a graph: the spans of its ``start`` and of its ``wait``."""

    role: str
    spans: tuple[Span, Span]

    @property
    def seconds(self) -> float:
        """Time spent inside the backend for it."""
        return sum(end - start for start, end in self.spans)


class TimedBackend:
    """``Backend``: another one, whose calls it notes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._calls: list[GraphCall] = []

    @property
    def memory(self) -> Memory:
        """The backend's."""
        return self._backend.memory

    @property
    def loads_in_threads(self) -> bool:
        """The backend's word; one that says nothing loads graph by graph."""
        return bool(getattr(self._backend, "loads_in_threads", False))

    @property
    def max_pass_len(self) -> int | None:
        """The backend's."""
        return self._backend.max_pass_len

    def files_to_check(self, role: str) -> list[str]:
        """The backend's."""
        return self._backend.files_to_check(role)

    def load(self, role: str) -> Graph:
        """The backend's graph, timed."""
        return _TimedGraph(self._backend.load(role), role, self._calls)

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def take_calls(self) -> list[GraphCall]:
        """The calls that have ended since the last time this was asked."""
        taken = list(self._calls)
        self._calls.clear()
        return taken


class _TimedGraph:
    def __init__(self, graph: Graph, role: str, calls: list[GraphCall]) -> None:
        self._graph, self._role, self._calls = graph, role, calls
        self.input_names, self.output_names = graph.input_names, graph.output_names

    def bind(
        self,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        *,
        is_fixed: bool = False,
    ) -> BoundGraph:
        bound = self._graph.bind(inputs, outputs, is_fixed=is_fixed)
        return _TimedBoundGraph(bound, self._role, self._calls)


class _TimedBoundGraph:
    def __init__(self, bound: BoundGraph, role: str, calls: list[GraphCall]) -> None:
        self._bound, self._role, self._calls = bound, role, calls
        self._start: Span = (0.0, 0.0)

    def set_input(self, name: str, array: np.ndarray) -> None:
        self._bound.set_input(name, array)

    def start(self) -> None:
        begin = time.perf_counter()
        self._bound.start()
        self._start = (begin, time.perf_counter())

    def wait(self) -> None:
        begin = time.perf_counter()
        self._bound.wait()
        self._calls.append(GraphCall(self._role, (self._start, (begin, time.perf_counter()))))

    def read(self, name: str) -> np.ndarray:
        return self._bound.read(name)


def covered_s(calls: Iterable[GraphCall]) -> float:
    """Seconds in which at least one of the calls was inside the backend."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(span for call in calls for span in call.spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total
