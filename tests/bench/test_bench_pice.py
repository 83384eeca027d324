"""The benchmark of progressive inference runs whole on tiny random models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "bench" / "bench_pice.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(
        tmp_path_factory.mktemp("models"), "qwen2", "Q8_0", max_position_embeddings=2048
    )


def run(model: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    models = ("--cloud-model", str(model), "--edge-models", str(model))
    cpus = ("--cpus-cloud", "0", "--cpus-edge", "0", "--max-tokens", "24", "--clients", "2")
    return subprocess.run(
        [sys.executable, str(SCRIPT), *models, *cpus, "--json", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_mode_and_load_has_a_line_with_figures(model: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    flags = ("--modes", "direct,edge_only", "--load", "half", "--max-questions", "2")
    done = run(model, *flags, "--answers", str(answers))
    rows = rows_of(done)
    assert sorted((row["mode"], row["load"]) for row in rows) == [
        *(("direct", "half"), ("direct", "saturated"), ("edge_only", "half")),
    ]
    for row in rows:
        assert row["bench"] == "pice"
        assert (row["num_questions"], row["failures"]) == (2, 0)
        assert row["routes"] == {row["mode"]: 1.0}
        assert 0 < row["first_text_p50_ms"] <= row["latency_p50_ms"] <= row["latency_p95_ms"]
        assert row["requests_per_min"] > 0
        assert row["checklist_score"]["n"] == 2
        assert row["judge_self_test"]["identical_ties"] == row["judge_self_test"]["num_pairs"]
        assert {"commit", "machine", "seed"} <= row.keys()
    by_cell = {(row["mode"], row["load"]): row for row in rows}
    assert by_cell["direct", "half"]["pairwise"] is None
    assert sum(by_cell["edge_only", "half"]["pairwise"][v] for v in ("win", "tie", "loss")) == 2
    rate = by_cell["direct", "saturated"]["requests_per_min"]
    assert by_cell["edge_only", "half"]["offered_per_min"] == pytest.approx(rate / 2, abs=1e-2)
    assert by_cell["direct", "half"]["edge_tokens"] == 0
    assert by_cell["edge_only", "half"]["bytes_sent"] > 1000
    assert by_cell["edge_only", "half"]["cloud_tokens"] == 0
    assert "estimate: 3 cells of 2 questions" in done.stderr
    assert len(answers.read_text(encoding="utf-8").splitlines()) == 6


def test_what_could_not_be_measured_has_a_line_with_the_reason(model: Path) -> None:
    flags = ("--modes", "direct", "--load", "light", "--max-questions", "1")
    [row] = rows_of(run(model, *flags, "--judge-model", "none", "--max-minutes", "0"))
    assert row["skipped"] == "the time of --max-minutes is over"
    assert "requests_per_min" not in row


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--modes", "guess"), "mode 'guess' is unknown"),
        (("--load", "heavy"), "load 'heavy' is unknown"),
        (("--classes", "riddles"), "class 'riddles' is unknown"),
        (("--questions", "/nowhere.jsonl"), "/nowhere.jsonl"),
        (("--cpus-edge", "9999"), "core 9999 is not one of"),
        (("--cloud-flags=--nonsense", "--judge-model=none"), "unrecognized arguments: --nonsense"),
        (("--clients", "0"), "--clients is 0"),
        (("--cloud-model", "/nowhere.gguf"), "/nowhere.gguf"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(
    flags: tuple[str, ...], words: str, model: Path
) -> None:
    done = run(model, *flags)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
