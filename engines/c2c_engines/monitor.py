"""How far a build is: TensorRT's tree of phases as one fraction that never goes back, and a name.

TensorRT says how many steps a phase has, not how long they take. Nearly all of a build is one phase
(five steps a profile in TensorRT-RTX 1.7), so its fraction is the build's; a version without a phase
of that name stays at the start until it is done.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from c2c_runtime.progress import OnProgress

_LONGEST_PHASE = "Computing profile costs"
# Shares of a build: (before the longest phase, its end). What is left is for writing the engine.
_BEFORE, _END = 0.02, 0.95
_LEAST_GAIN = 0.005


@dataclass
class _Phase:
    """A phase at work. ``inner``: the phases inside its present step."""

    name: str
    num_steps: int
    num_done: int = 0
    inner: list[_Phase] = field(default_factory=list)

    def fraction(self) -> float:
        inside = max((phase.fraction() for phase in self.inner), default=0.0)
        return min((self.num_done + inside) / self.num_steps, 1.0)


class PhaseTree:
    """Follows the phases of one build and reports each gain. TensorRT calls from several threads.

    ``failure``: what ``on_progress`` raised, Ctrl-C included. It may not pass through TensorRT, so the
    build is asked to stop, and whoever started it raises the failure afterwards.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._root: _Phase | None = None
        self._open: dict[str, _Phase] = {}
        self._best = 0.0
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        """A phase begins, inside the present step of ``parent``."""
        with self._lock:
            phase = self._open[name] = _Phase(name, max(num_steps, 1))
            if parent in self._open:
                self._open[parent].inner.append(phase)
            elif self._root is None:
                self._root = phase
            self._report(name)

    def step(self, name: str, step: int) -> None:
        """Step ``step`` of a phase (from 0) is done, and so is what was inside it."""
        with self._lock:
            if (phase := self._open.get(name)) is not None:
                phase.num_done = max(phase.num_done, step + 1)
                phase.inner.clear()
                self._report(name)

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            if (phase := self._open.pop(name, None)) is not None:
                phase.num_done = phase.num_steps
                self._report(name)

    def _report(self, name: str) -> None:
        fraction = self._fraction()
        if self.failure is None and fraction >= self._best + _LEAST_GAIN:
            self._best = fraction
            try:
                self._on_progress(fraction, name)
            except BaseException as failure:  # noqa: BLE001  raised again by whoever started the build
                self.failure = failure

    def _fraction(self) -> float:
        longest = self._open.get(_LONGEST_PHASE)
        if longest is not None:
            return _BEFORE + (_END - _BEFORE) * longest.fraction()
        whole = self._root.fraction() if self._root else 0.0
        return whole * _BEFORE


def progress_monitor(trt: Any, tree: PhaseTree) -> Any:
    """An ``IProgressMonitor`` that tells ``tree``. Keep it alive as long as the builder."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tree.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tree.step(phase_name, step)
            return tree.failure is None  # False stops the build

        def phase_finish(self, phase_name: str) -> None:
            tree.finish(phase_name)

    return Monitor()
