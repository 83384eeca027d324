"""`picert simulate`: flags become cells, lists become sweeps, and what is wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from picert.cli import main
from picert.report.rows import read_rows

MODELS = "--cloud-model llama-3.1-8b-fp16@h100-sxm --edge-models qwen2.5-0.5b-fp16@orin-agx-64gb"


def simulate(flags: str) -> int:
    return main(["simulate", *MODELS.split(), *flags.split()])


def test_lists_make_a_line_for_each_combination(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert simulate("--mode direct,pice --edges 1,3 --requests 12 --clients 4 --json") == 0
    text = capsys.readouterr().out
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["edges"], row["mode"]) for row in rows] == [
        *((1, "direct"), (1, "pice")),
        *((3, "direct"), (3, "pice")),
    ]
    assert all(row["failures"] == 0 for row in rows)
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert all(row.is_simulated for row in read_rows([path]))


def test_parts_are_switched_off_by_the_flags_of_the_cloud(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert simulate("--no-grouping --requests 6 --clients 1 --json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["mode"], row["load"]) == ("pice_no_grouping", "light")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--edges two", "--edges is 'two'"),
        ("--loss 1.5", "--loss is '1.5'"),
        ("--mode best", "--mode is 'best'"),
        ("--rate 0", "--rate must be over 0"),
        ("--rate 60 --rate-swing 2", "--rate-swing is 2"),
        ("--rate-swing 0.5", "--rate-swing needs --rate"),
        ("--classes odd", "--classes: class 'odd' is unknown"),
        ("--trace nowhere.jsonl", "trace nowhere.jsonl"),
        ("--slack -1", "--slack"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    flags: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(flags) != 0
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
