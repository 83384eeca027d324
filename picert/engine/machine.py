"""What this process may use of the machine: cores and memory, inside its control group's limits."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROCESS_GROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")


def usable_cores(root: Path = _CGROUP_ROOT, groups: Path = _PROCESS_GROUPS) -> int:
    """Cores that this process may run on: its affinity, and its CPU quota rounded up."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas = [_cpu_quota(folder) for folder in _group_folders("cpu", root, groups)]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def available_memory(
    root: Path = _CGROUP_ROOT, groups: Path = _PROCESS_GROUPS, meminfo: Path = _MEMINFO
) -> int:
    """Bytes that this process could still take: what is free, or what its memory limit leaves."""
    free = [_free_bytes(meminfo)]
    for folder in _group_folders("memory", root, groups):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            free.append(max(0, limit - used + _reclaimable(folder)))
    return min(free)


def _group_folders(controller: str, root: Path, groups: Path) -> Iterator[Path]:
    """Folders of the process's control group and its parents, version 2 and version 1."""
    for line in _lines(groups):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        folder = base / path.lstrip("/")
        yield folder
        while folder != base:
            folder = folder.parent
            yield folder


def _cpu_quota(folder: Path) -> float | None:
    """Cores' worth of time, None where there is no limit."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [word for name in names for word in _lines(folder / name)]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache that count as used but would be given up."""
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _free_bytes(meminfo: Path) -> int:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 2


def _number(folder: Path, *names: str) -> int | None:
    """The first of these files that holds a number ("max" is none)."""
    lines = [line for name in names for line in _lines(folder / name) if line.isdigit()]
    return int(lines[0]) if lines else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
