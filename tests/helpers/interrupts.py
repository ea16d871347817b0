"""Ctrl-C: as a terminal gives it to processes, and in the middle of a run."""

from __future__ import annotations

import signal

from c2c_runtime.backends.ort_backend import BoundOrtGraph


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
