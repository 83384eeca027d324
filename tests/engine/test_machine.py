"""Limits of control groups, read from files laid out as the kernel does."""

import os
from pathlib import Path

import pytest

from picert.engine.machine import available_memory, processors_for, usable_cores
from picert.errors import ConfigError

GB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: 1 kB\nMemAvailable: {16 * GB // 1024} kB\n")
    return path


def memory(tmp_path: Path, meminfo: Path, group: str, files: dict[str, str]) -> int:
    groups = tmp_path / "groups"
    groups.write_text(group + "\n")
    return available_memory(write(tmp_path / "cgroup", files), groups, meminfo)


def test_no_limit_leaves_what_the_machine_has(tmp_path: Path, meminfo: Path) -> None:
    assert memory(tmp_path, meminfo, "0::/a", {"a/memory.max": "max"}) == 16 * GB


def test_version_2_limit_counts_with_reclaimable_cache(tmp_path: Path, meminfo: Path) -> None:
    files = {
        "a/b/memory.max": str(4 * GB),
        "a/b/memory.current": str(3 * GB),
        "a/b/memory.stat": f"anon 5\ninactive_file {GB}",
    }
    assert memory(tmp_path, meminfo, "0::/a/b", files) == 2 * GB


def test_limit_of_a_parent_group_counts(tmp_path: Path, meminfo: Path) -> None:
    files = {"a/memory.max": str(2 * GB), "a/memory.current": "0", "a/b/memory.max": "max"}
    assert memory(tmp_path, meminfo, "0::/a/b", files) == 2 * GB


def test_group_at_the_root_of_a_container_counts(tmp_path: Path, meminfo: Path) -> None:
    files = {"memory.max": str(3 * GB), "memory.current": "0"}
    assert memory(tmp_path, meminfo, "0::/", files) == 3 * GB


def test_version_1_limit_counts(tmp_path: Path, meminfo: Path) -> None:
    files = {
        "memory/x/memory.limit_in_bytes": str(5 * GB),
        "memory/x/memory.usage_in_bytes": str(GB),
    }
    assert memory(tmp_path, meminfo, "7:memory:/x", files) == 4 * GB


def test_group_over_its_limit_leaves_nothing(tmp_path: Path, meminfo: Path) -> None:
    files = {"memory.max": str(GB), "memory.current": str(2 * GB)}
    assert memory(tmp_path, meminfo, "0::/", files) == 0


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/a", {"a/cpu.max": "50000 100000"}),
        (
            "3:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": "90000", "cpu/a/cpu.cfs_period_us": "100000"},
        ),
    ],
)
def test_cpu_quota_is_rounded_up(tmp_path: Path, group: str, files: dict[str, str]) -> None:
    groups = tmp_path / "groups"
    groups.write_text(group + "\n")
    assert usable_cores(write(tmp_path / "cgroup", files), groups) == 1


def test_no_quota_leaves_the_affinity(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("0::/a\n")
    root = write(tmp_path / "cgroup", {"a/cpu.max": "max 100000"})
    assert usable_cores(root, groups) == len(os.sched_getaffinity(0))


@pytest.fixture
def two_nodes(tmp_path: Path) -> Path:
    """Four cores of two threads each on two memory nodes: siblings are n and n + 4."""
    files = {}
    for cpu in range(8):
        core = cpu % 4
        files[f"cpu{cpu}/topology/thread_siblings_list"] = f"{core},{core + 4}"
        files[f"cpu{cpu}/node{core // 2}/meminfo"] = ""
    return write(tmp_path, files)


@pytest.mark.parametrize(
    ("spec", "num_threads", "wanted"),
    [
        ("none", 8, ()),
        ("auto", 3, (0, 1, 2)),
        ("auto", 6, (0, 1, 2, 3, 4, 5)),
        ("6,1-2", 3, (6, 1, 2)),
        ("0-7", 2, (0, 1)),
        ("3,3,4", 2, (3, 4)),
    ],
)
def test_threads_are_bound_to_processors(
    two_nodes: Path, spec: str, num_threads: int, wanted: tuple[int, ...]
) -> None:
    assert processors_for(spec, num_threads, range(8), two_nodes) == wanted


def test_auto_counts_only_siblings_that_may_be_used(two_nodes: Path) -> None:
    assert processors_for("auto", 3, [4, 5, 1], two_nodes) == (1, 4, 5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [("9", "names processor 9"), ("1-2", "gives 2 processors to 3 threads"), ("auto", "gives 2")],
)
def test_processors_that_cannot_be_had_are_refused(two_nodes: Path, spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        processors_for(spec, 3, [1, 2], two_nodes)


def test_this_machine_has_a_core_and_memory() -> None:
    assert usable_cores() >= 1
    assert available_memory() > 0
