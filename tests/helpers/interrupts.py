"""Ending processes as a terminal does."""

from __future__ import annotations

import signal


def heeds_ctrl_c() -> None:
    """For ``preexec_fn``: shells let what they start in the background ignore Ctrl-C, and tests that
    run there would hand that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
