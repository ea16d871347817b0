"""How many threads suit this machine: one for every core that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from c2c_runtime.arguments import check_count, shown
from c2c_runtime.errors import UsageError

_MOST_PER_CPU = 4  # threads that share a CPU wait for one another; more of them for minutes
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


def check_num_threads(num_threads: int | None) -> None:
    """Raise ``UsageError`` unless so many threads make sense here. None: ``num_usable_cores``."""
    check_count("num_threads", num_threads, 1, or_none=True)
    num_cpus = os.cpu_count() or 1
    if num_threads is not None and num_threads > _MOST_PER_CPU * num_cpus:
        raise UsageError(
            f"num_threads is {shown(num_threads)}, and this machine has {num_cpus} CPUs",
            f"give {_MOST_PER_CPU * num_cpus} at most, or none, which means one a core",
        )


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
