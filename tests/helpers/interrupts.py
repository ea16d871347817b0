"""Ctrl-C: as a terminal gives it to processes, and in the middle of a run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

from c2c_runtime.backends.ort_backend import BoundOrtGraph

Trace = Callable[..., Any]


def heeds_ctrl_c() -> None:
    """For ``preexec_fn``: shells let what they start in the background ignore Ctrl-C, and tests that
    run there would hand that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt_run(monkeypatch, number):
    """Ctrl-C instead of the ``number``-th run of any graph from now on, from 0."""
    start = BoundOrtGraph.start
    num_runs = 0

    def interrupted(graph):
        nonlocal num_runs
        num_runs += 1
        if num_runs > number:
            raise KeyboardInterrupt
        start(graph)

    monkeypatch.setattr(BoundOrtGraph, "start", interrupted)


@contextmanager
def interrupted_line(number: int, folder: Path) -> Iterator[None]:
    """Ctrl-C before the ``number``-th line, from 0, that Python runs of the files in ``folder``. Nothing
    happens where it runs fewer. Lines of ``with`` do not count: they come again at the end, and there
    Python heeds Ctrl-C only when the context is left."""
    num_lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Trace | None:
        nonlocal num_lines
        path = frame.f_code.co_filename
        if Path(path).parent != folder:
            return None
        if event != "line" or getline(path, frame.f_lineno).lstrip().startswith("with "):
            return trace
        num_lines += 1
        if num_lines > number:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
