"""The benchmark of progressive inference runs whole on tiny random models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from eventually import eventually

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "bench" / "bench_pice.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(
        tmp_path_factory.mktemp("models"), "qwen2", "Q8_0", max_position_embeddings=2048
    )


def command(model: Path, *flags: str) -> list[str]:
    models = ("--cloud-model", str(model), "--edge-models", str(model))
    cpus = ("--cpus-cloud", "0", "--cpus-edge", "0", "--max-tokens", "24", "--clients", "2")
    return [sys.executable, str(SCRIPT), *models, *cpus, "--json", *flags]


def run(model: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(model, *flags), capture_output=True, text=True, check=False, timeout=110
    )


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_mode_and_load_has_a_line_with_figures(model: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    profile = tmp_path / "profile.json"
    flags = ("--modes", "direct,edge_only", "--load", "half", "--max-questions", "2")
    done = run(model, *flags, "--answers", str(answers), "--profile", str(profile))
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
        assert row["judge_self_test"]["checklist"]["again_off"] <= 1.0
        assert row["judge_self_test"]["pairwise"]["num_questions"] == 4
        assert {"commit", "machine", "seed"} <= row.keys()
        assert row["speeds"] == "profile"
    by_cell = {(row["mode"], row["load"]): row for row in rows}
    assert by_cell["direct", "half"]["pairwise"] is None
    assert sum(by_cell["edge_only", "half"]["pairwise"][v] for v in ("win", "tie", "loss")) == 2
    rate = by_cell["direct", "saturated"]["requests_per_min"]
    assert by_cell["edge_only", "half"]["offered_per_min"] == pytest.approx(rate / 2, abs=1e-2)
    assert by_cell["direct", "half"]["edge_tokens"] == 0
    assert by_cell["edge_only", "half"]["bytes_sent"] > 1000
    assert by_cell["edge_only", "half"]["cloud_tokens"] == 0
    assert "estimate: 3 cells, questions 2 of 90 (all), about" in done.stderr
    assert by_cell["edge_only", "half"]["bytes_per_answer"] > 500
    assert all(set(row["score_of"]) == set(row["latency_ms_of"]) for row in rows)
    assert json.loads(profile.read_text(encoding="utf-8"))["models"]
    assert len(answers.read_text(encoding="utf-8").splitlines()) == 6
    again = rows_of(run(model, "--judge-answers", str(answers)))
    assert [row["score_of"] for row in again] == [
        by_cell[row["mode"], row["load"]]["score_of"] for row in again
    ]
    assert {(row["of"], row["classes"]) for row in again} == {("quality", "all")}


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
        (("--targets", "--modes", "pice"), "leave --modes out"),
        (("--judge-answers", "/nowhere.jsonl"), "/nowhere.jsonl"),
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


def children_of(parent: int) -> set[int]:
    stats = ((int(f.parent.name), f) for f in Path("/proc").glob("[0-9]*/stat"))
    return {pid for pid, file in stats if _parent(file) == parent}


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return None


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_servers_and_prints_what_was_measured(
    number: signal.Signals, model: Path
) -> None:
    flags = ("--modes", "direct,edge_only", "--load", "light,saturated", "--max-questions", "1")
    # A shell that runs pytest in the background has it ignore SIGINT, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        bench = subprocess.Popen(
            command(model, *flags, "--judge-model", "none", "--clients", "500"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert bench.stderr is not None
        for line in bench.stderr:
            if line.startswith("direct light:") and "requests a minute" in line:
                break
        servers: set[int] = set()

        def both_run() -> bool:
            servers.update(children_of(bench.pid))
            return len(servers) == 2

        await eventually(both_run, timeout_s=60)
        bench.send_signal(number)
        printed, told = bench.communicate(timeout=30)
    finally:
        bench.kill()
        bench.wait()
    assert bench.returncode == 128 + number
    assert "Traceback" not in told
    assert [(row["mode"], row["load"]) for row in map(json.loads, printed.splitlines())] == [
        ("direct", "light")
    ]
    assert not [pid for pid in servers if is_there(pid)]
