"""What this process may use of the machine: cores and memory, inside its control group's limits."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from picert.errors import ConfigError

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROCESS_GROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_PROCESSORS = Path("/sys/devices/system/cpu")


def usable_cores(root: Path = _CGROUP_ROOT, groups: Path = _PROCESS_GROUPS) -> int:
    """Cores that this process may run on: its affinity, and its CPU quota rounded up."""
    cores = len(usable_processors())
    quotas = [_cpu_quota(folder) for folder in _group_folders("cpu", root, groups)]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def usable_processors() -> set[int]:
    """Numbers of the processors in this process's affinity."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def processors_for(
    spec: str, num_threads: int, usable: Iterable[int], root: Path = _PROCESSORS
) -> tuple[int, ...]:
    """The processor of each thread: none for "none", those listed ("0-3,8"), or for "auto" one of
    each core before a core's second, memory node by memory node.

    Raises ConfigError unless each thread gets a usable processor of its own.
    """
    allowed = sorted(usable)
    if spec == "none":
        return ()
    if spec == "auto":
        chosen = sorted(allowed, key=lambda cpu: _place(cpu, allowed, root))
    else:
        chosen = [cpu for part in spec.split(",") for cpu in _range(part)]
        if outside := set(chosen) - set(allowed):
            raise ConfigError(
                f"threads_bind names processor {min(outside)}, this process may use "
                f"{', '.join(map(str, allowed))}",
                param="threads_bind",
            )
    if len(set(chosen)) < num_threads:
        raise ConfigError(
            f"threads_bind {spec} gives {len(set(chosen))} processors to {num_threads} threads: "
            "name more or lower threads",
            param="threads_bind",
        )
    return tuple(dict.fromkeys(chosen))[:num_threads]


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def _place(cpu: int, allowed: list[int], root: Path) -> tuple[int, int, int]:
    """Order of `auto`: how many usable siblings of its core come before it, its node, itself."""
    siblings = _lines(root / f"cpu{cpu}/topology/thread_siblings_list")
    core = {c for part in "".join(siblings).split(",") if part for c in _range(part)}
    nodes = sorted((root / f"cpu{cpu}").glob("node[0-9]*"))
    node = int(nodes[0].name.removeprefix("node")) if nodes else 0
    return sum(c < cpu for c in core & set(allowed)), node, cpu


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
