"""A measured table replaces what it names and nothing else, and is refused where it is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_kernels  # noqa: F401 - skips where triton is not installed
import pytest

from picert.errors import ConfigError
from picert.kernels.launch import Config, Kernel
from picert.kernels.launch_table import LaunchTable, Setting, read_table

CONFIGS = (Config("small", {}, num_warps=4), Config("large", {}, num_warps=8, num_stages=3))


def written(folder: Path, content: object) -> str:
    path = folder / "table.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def table_of(**kernels: Any) -> dict[str, Any]:
    return {"device": "some card", "kernels": kernels}


def kernel(table: LaunchTable) -> Kernel:
    return Kernel(
        name="any", function=None, arguments={}, configs=CONFIGS, work=lambda *_: None, table=table
    )


def test_without_a_file_nothing_changes() -> None:
    assert read_table(None) == read_table("") == LaunchTable()
    assert kernel(LaunchTable()).configs == CONFIGS


def test_measured_settings_take_the_place_of_the_static_ones(tmp_path: Path) -> None:
    setting = {"num_warps": 2, "num_stages": 5}
    found = kernel(read_table(written(tmp_path, table_of(any={"large": setting}))))
    assert found.configs[0] == CONFIGS[0]
    assert found.config("large") is found.configs[1]
    assert (found.configs[1].num_warps, found.configs[1].num_stages) == (2, 5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "Expecting property name"),
        ([], "the table must be an object of device and kernels"),
        ({"device": "x"}, "the table must be an object of device and kernels"),
        ({"device": 1, "kernels": {}}, "device of the table is 1, str wanted"),
        (table_of(any=3), "any must be an object"),
        (table_of(any={"large": {}}), "any large must be an object of num_warps and num_stages"),
        (table_of(any={"large": {"num_warps": True, "num_stages": 1}}), "True, int wanted"),
        (table_of(any={"large": {"num_warps": 3, "num_stages": 1}}), "is 3, one of 1, 2, 4"),
        (table_of(any={"large": {"num_warps": 4, "num_stages": 0}}), "is 0, one of 1, 2, 3"),
    ],
)
def test_wrong_content_is_refused_with_its_place(
    content: object, words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_table(path)
    assert path in caught.value.message


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="/nowhere"):
        read_table("/nowhere.json")


def test_unknown_names_are_refused() -> None:
    setting = {"other": Setting(4, 1)}
    with pytest.raises(ConfigError, match=r"configuration of any other, .*: one of small, large"):
        kernel(LaunchTable("t", "", {"any": setting}))
    with pytest.raises(ConfigError, match=r"names the kernel any, .*: one of rope"):
        LaunchTable("t", "", {"any": setting}).check_kernels(["rope"])


def test_a_table_of_another_card_is_refused() -> None:
    table = LaunchTable("t.json", "some card")
    table.check_device("some card")
    with pytest.raises(ConfigError, match="was measured on some card, this is another"):
        table.check_device("another")
    LaunchTable().check_device("any card")


def registry(table: str) -> subprocess.CompletedProcess[str]:
    """What a process with that table launches rope with."""
    code = (
        "from picert.kernels.registry import KERNELS\n"
        "print(*((k.name, c.name, c.num_warps) for k in KERNELS for c in k.configs), sep='\\n')"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PICERT_LAUNCH_TABLE": table},
    )


def test_the_registry_is_what_the_variable_says(tmp_path: Path) -> None:
    setting = {"num_warps": 16, "num_stages": 1}
    done = registry(written(tmp_path, table_of(rope={"128": setting})))
    assert "('rope', '128', 16)" in done.stdout.splitlines()
    assert "('rope', '64', 4)" in done.stdout.splitlines()
    done = registry(written(tmp_path, table_of(rpoe={"128": setting})))
    assert "names the kernel rpoe" in done.stderr
