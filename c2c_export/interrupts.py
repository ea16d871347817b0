"""Ctrl-C and SIGTERM -> KeyboardInterrupt, so that what an unfinished command made is cleared away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what ends a command from outside, as ``timeout``, ``kill`` and services do."""


@contextmanager
def ending_like_ctrl_c() -> Iterator[None]:
    """A block that SIGTERM ends as Ctrl-C does, in the main thread. Further ones are ignored, so that
    clearing away is not cut short. Not where somebody else has said what SIGTERM does."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def code_of_interrupt(error: BaseException) -> int:
    """The exit code of what ``error``, or its cause, ended: 130 of Ctrl-C, 143 of SIGTERM."""
    return 143 if isinstance(error, Terminated) or isinstance(error.__cause__, Terminated) else 130


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
