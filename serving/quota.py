"""How many processor cores there are for this process, by the machine and by the container's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Processor cores that this process may use: those it is bound to, and no more than its container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, bound if quota is None else min(bound, math.ceil(quota)))


def cores_of_each(processes: int) -> int:
    """Processor cores of each of so many processes that share them, at least one."""
    return max(1, cores() // processes)


def cpu_quota(cgroups: Path = _CGROUPS) -> float | None:
    """CPU limit of the container in cores, as Linux control groups (2 or 1) tell it; None where there is none."""
    for read in (_quota_v2, _quota_v1):
        try:
            return read(cgroups)
        except (OSError, ValueError):
            continue
    return None


def _quota_v2(cgroups: Path) -> float | None:
    quota, period = (cgroups / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(cgroups: Path) -> float | None:
    quota = int((cgroups / "cpu" / "cpu.cfs_quota_us").read_text())
    return None if quota <= 0 else quota / int((cgroups / "cpu" / "cpu.cfs_period_us").read_text())
