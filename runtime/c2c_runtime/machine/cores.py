"""How many threads suit this machine: one for every core that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_GROUPS = Path("/sys/fs/cgroup")


def num_usable_cores(cpus: Path = _CPUS, groups: Path = _GROUPS) -> int:
    """Cores of the process's affinity, two hardware threads of one core counted once, and at most the
    CPU time that its control group allows (a container's limit), rounded up.

    ``cpus`` and ``groups``: where Linux tells; elsewhere every logical CPU counts.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = {_core_of(cpus, cpu) for cpu in allowed}
    limit = _group_limit(groups)
    return max(1, len(cores) if limit is None else min(len(cores), limit))


def _core_of(cpus: Path, cpu: int) -> str:
    """The hardware threads of a CPU's core, or the CPU alone where nothing tells."""
    try:
        return (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _group_limit(groups: Path) -> int | None:
    """CPUs' worth of time of the control group, version 2 or 1; None without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((groups / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        is_limited = quota.isdigit() and period.isdigit() and int(period) > 0
        return max(1, -(-int(quota) // int(period))) if is_limited else None
    return None
