"""The profile of steps: shares of all phases, on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

SCRIPT = Path(__file__).parent.parent.parent / "bench" / "bench_steps.py"


def test_each_case_has_shares_that_add_up(tmp_path: Path) -> None:
    model = tiny_models.make_gguf(tmp_path, "llama", "Q8_0", max_position_embeddings=1024)
    done = subprocess.run(
        [
            *(sys.executable, str(SCRIPT), "--model", str(model), "--threads", "1", "--json"),
            *("--cases", "tg2,pp32"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["case"] for row in rows] == ["tg2", "pp32"]
    for row in rows:
        assert row["step_ms"] > 0
        assert {"gate_up", "attention", "lm_head", "wait", "python"} <= row["shares"].keys()
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-2)
        assert min(row["shares"].values()) >= 0
