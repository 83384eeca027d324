"""The whole of --targets and --ablations, over a system that answers at once."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bench_pice
import pytest
from pice import cells, plan
from pice.modes import WITH, WITHOUT
from pice.system import Machines
from scripted_service import DONE

from picert.simulate.load import Answered
from picert.simulate.questions import Question


class InstantSystem:
    """Counts what it is asked."""

    def __init__(self, counter: Iterator[int]) -> None:
        self._counter = counter
        self.num_link_bytes = 0

    async def warm_up(self) -> float:
        return 0.001

    async def ask(self, question: Question) -> Answered:
        self.num_link_bytes += 100
        latency_s = 1.0 + next(self._counter) % 7
        return Answered(question, "Yes.", latency_s, latency_s / 2, DONE)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Machines]]:
    """The systems that were started: their mode and machines."""
    started: list[tuple[str, Machines]] = []
    counter = itertools.count()

    @asynccontextmanager
    async def running(machines: Machines, mode: str, _: Path) -> AsyncIterator[InstantSystem]:
        started.append((mode, machines))
        yield InstantSystem(counter)

    monkeypatch.setattr(cells, "running", running)
    return started


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the run, and the lines of its table."""
    model = Path(__file__)  # never loaded: any file will do
    monkeypatch.setattr(plan.hub, "find", lambda name: model)
    cpus = ("--cpus-cloud", "0", "--cpus-edge", "0", "--profile", str(model))
    judge = ("--judge-model", "none", "--json", "--clients", "2")
    monkeypatch.setattr(sys, "argv", ["bench_pice.py", *cpus, *judge, *flags])
    bench_pice.main()
    printed = capsys.readouterr()
    table = printed.err[printed.err.index("no cell begins") :].splitlines()
    return [json.loads(line) for line in printed.out.splitlines()], table


def test_targets_are_a_table_of_seven_lines_over_twelve_cells(
    asked: list[tuple[str, Machines]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, table = run(monkeypatch, capsys, "--targets")
    names = [(row["mode"], row["load"], row["classes"]) for row in rows]
    assert len(names) == len(set(names)) == 12
    assert [mode for mode, _ in asked[1:]] == [row["mode"] for row in rows]
    assert {row["num_available"] for row in rows} == {40, 50, 90}
    assert all(row["num_questions"] == row["num_available"] for row in rows)
    assert {row["speeds"] for row in rows} == {"profile"}
    lines = table[next(i for i, line in enumerate(table) if line.startswith("target ")) :]
    assert len(lines) == 8
    assert sum("not measured" in line for line in lines) == 2  # what rests on a judge
    assert sum("[" in line for line in lines) == 5


def test_ablations_are_a_table_of_the_parts_each_in_its_situation(
    asked: list[tuple[str, Machines]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, table = run(monkeypatch, capsys, "--ablations", "--max-questions", "4")
    assert len(rows) == len(asked) - 1 == 3 + len(WITHOUT) + len(WITH)
    assert asked[-1][1].edges == (("qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"),)
    lines = table[next(i for i, line in enumerate(table) if line.startswith("part ")) :]
    parts = [line.split()[0] for line in lines[1:]]
    names = [*(f"pice_no_{part}" for part in parts), *(f"pice_with_{part}" for part in parts)]
    assert {*WITHOUT, *WITH} <= {*names}
    assert len(parts) == len(WITHOUT) + len(WITH)


def test_two_tables_share_their_cells(
    asked: list[tuple[str, Machines]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, _ = run(monkeypatch, capsys, "--targets", "--ablations", "--max-questions", "4")
    assert len(rows) == len(asked) - 1 == 12 + 3 + len(WITHOUT) + len(WITH) - 2
