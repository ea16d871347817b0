"""How much memory this process holds, and giving back what it no longer needs."""

from __future__ import annotations

import gc
import resource
import sys

from c2c_runtime.host_memory import return_freed_memory


def release_memory() -> None:
    """Free what nothing refers to, and hand it to the system.

    Without the second step a model's weights, once freed, stay with the process wherever something
    small was allocated after them: the next model and the runtime then come on top.
    """
    gc.collect()
    return_freed_memory()


def peak_memory_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
