"""The engine benchmark runs, its lines say what they must, and who is missing is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from limits import Cost, MachineRates

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "bench" / "bench_engine.py"
QUICK = ("--threads", "1", "--rounds", "2", "--case-seconds", "0", "--json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(
        tmp_path_factory.mktemp("models"), "llama", "Q8_0", max_position_embeddings=1024
    )


def run(model: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--model", str(model), *QUICK, *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, **environment},
    )


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_case_has_a_line_with_figures_and_their_limit(model: Path) -> None:
    rows = rows_of(run(model, "--cases", "tg2,pp64"))
    assert [(row["engine"], row["case"]) for row in rows] == [("picert", "tg2"), ("picert", "pp64")]
    for row in rows:
        assert (row["bench"], row["model"], row["threads"]) == ("engine", str(model), 1)
        assert 0 < row["p20"] <= row["tok_per_s"] <= row["p80"] <= row["best"]
        assert row["limit"] in ("memory", "int8")
        assert row["share_of_limit"] == max(row["memory_share"], row["int8_share"])
        assert row["rounds"] == 2
        assert {"commit", "machine", "load_s", "rss_mb"} <= row.keys()
    assert 0 < rows[0]["python_share"] < 1


def test_sequences_with_a_common_prefix_compute_it_once_beside_unrelated_ones(model: Path) -> None:
    shared, unrelated = rows_of(run(model, "--cases", "prefix3"))
    assert (shared["case"], unrelated["case"]) == ("prefix3", "unrelated3")
    assert shared["computed_prompt_tokens"] == 512 + 3 * 16
    assert unrelated["computed_prompt_tokens"] == 3 * (512 + 16)
    assert shared["baseline"] == "unrelated3 x1"
    assert shared["ratio_to_baseline"] > 0


def test_a_missing_peer_is_named_with_the_reason(model: Path, tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('no llama_cpp on this machine')\n")
    done = run(model, "--cases", "tg1", "--peers", "llama.cpp", PYTHONPATH=str(tmp_path))
    by_engine = {row["engine"]: row for row in rows_of(done)}
    assert by_engine["picert"]["tok_per_s"] > 0
    assert "no llama_cpp on this machine" in by_engine["llama.cpp"]["skipped"]
    assert "tok_per_s" not in by_engine["llama.cpp"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--cases", "tg0"), "case 'tg0' is unknown"),
        (("--cases", "pp512@4"), "case 'pp512@4' is unknown"),
        (("--cases", "tg1", "--peers", "nobody"), "peer 'nobody' is unknown"),
        (("--cases", "tg1", "--model", "/nowhere.gguf"), "/nowhere.gguf"),
        (("--device", "cuda", "--peers", "openvino"), "peer 'openvino' runs on the CPU here"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    flags: tuple[str, ...], words: str, model: Path
) -> None:
    done = run(model, *flags)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so_in_a_line(model: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", str(model), "--device", "cuda"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=environment,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        "picert: no CUDA device is visible: only --static and --device cpu work without one"
    ]


def test_rates_of_a_card_are_named_after_its_tensor_cores() -> None:
    rates = MachineRates("tensor", [1000.0], [1e5])
    row = rates.row(Cost(num_tokens=8, num_bytes=10**9, num_macs=10**9), tok_per_s=4000.0)
    assert (row["limit"], row["limit_tok_per_s"], row["share_of_limit"]) == ("memory", 8000.0, 0.5)
    assert row["tensor_share"] == pytest.approx(4000 / 8 / 1e5)
