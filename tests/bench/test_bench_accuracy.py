"""The accuracy benchmark compares logits with those in fp32, and says who is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "bench" / "bench_accuracy.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(tmp_path_factory.mktemp("models"), "qwen2", "Q8_0")


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--json", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, **environment},
    )


def test_each_engine_has_a_line_with_its_distance_from_fp32(model: Path, tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('no llama_cpp here')\n")
    flags = ("--num-tokens", "60", "--kv-cache-dtypes", "fp16,int8", "--peers", "llama.cpp")
    done = run("--model", str(model), *flags, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    fp16, int8, peer = (json.loads(line) for line in done.stdout.splitlines())
    for row in (fp16, int8):
        assert (row["bench"], row["engine"], row["num_tokens"]) == ("accuracy", "picert", 60)
        assert 0 < row["mean_kl"] <= row["p99_kl"] <= row["max_kl"] < 0.5
        assert 0.8 < row["top1"] <= 1
    assert fp16["mean_kl"] < int8["mean_kl"]
    assert "no llama_cpp here" in peer["skipped"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--model", "/nowhere.gguf"), "/nowhere.gguf"),
        (("--model", "x", "--peers", "openvino"), "peer 'openvino' is unknown"),
        (("--model", "x", "--num-tokens", "0"), "--num-tokens is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(flags: tuple[str, ...], words: str) -> None:
    done = run(*flags)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
