"""The memory that processes hold and the machine has left; sizes in bytes."""

from __future__ import annotations

import gc
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")  # Linux alone keeps a peak that can be asked for, and reset
_FORGET_PEAK = "5"  # what the kernel's clear_refs takes for that


def total_bytes() -> int:
    """Of this machine."""
    return int(psutil.virtual_memory().total)


def available_bytes() -> int:
    """What a new program can have on this machine without swapping."""
    return int(psutil.virtual_memory().available)


def held_bytes(pid: int | None = None) -> int | None:
    """Resident memory of a process, by default of this one; None if it is gone, or not ours to see."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def peak_bytes() -> int | None:
    """The most that this process has held since it began or ``forget_peak`` was called; None where the
    system does not say.

    Not ``getrusage``: a process that was forked inherits its parent's peak there.
    """
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    if peak is not None:
        return int(peak)
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def forget_peak() -> None:
    """Let the peak begin again at what is held now, where the system can."""
    try:
        _STATUS.with_name("clear_refs").write_text(_FORGET_PEAK, encoding="ascii")
    except OSError:
        return


def release_memory() -> None:
    """Free what nothing refers to, and hand it to the system.

    Without the second step a model's weights, once freed, stay with the process wherever something
    small was allocated after them: the next model and the runtime then come on top.
    """
    gc.collect()
    return_freed_memory()


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library can; it keeps it otherwise.

    For after work that allocates far more than it leaves behind. Costs some milliseconds.
    """
    trim = getattr(psutil, "heap_trim", None)  # not with every C library
    if trim is not None:
        trim()
