"""The `llm` command line tool, told of the cloud as its users tell it: in a file of models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

QUESTION = "What helps with stress?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, url: str) -> Path:
    """Its settings."""
    path = tmp_path_factory.mktemp("llm")
    model = f"- model_id: ours\n  model_name: tiny\n  api_base: {url}/v1\n  supports_schema: true\n"
    (path / "extra-openai-models.yaml").write_text(model, encoding="utf-8")
    return path


def llm(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"}
    return subprocess.run(
        [sys.executable, "-m", "llm", "-m", "ours", "--no-log", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def test_streamed_and_whole_answers_are_the_same(folder: Path) -> None:
    options = ("-o", "seed", "3", "-o", "max_tokens", "8", QUESTION)
    streamed, whole = llm(folder, *options), llm(folder, "--no-stream", *options)
    assert (streamed.returncode, whole.returncode) == (0, 0), streamed.stderr + whole.stderr
    assert streamed.stdout.strip("\n") == whole.stdout.strip("\n") != ""


def test_schema_is_followed(folder: Path) -> None:
    schema = {"type": "object", "properties": {"hours": {"enum": [7, 8]}}, "required": ["hours"]}
    schema["additionalProperties"] = False
    done = llm(folder, "--schema", json.dumps(schema), "-o", "seed", "1", QUESTION)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hours"] in (7, 8)


def test_refusal_is_told_in_our_words(folder: Path) -> None:
    done = llm(folder, "-o", "temperature", "1", "-o", "top_p", "0", QUESTION)
    assert done.returncode != 0
    assert "top_p is 0" in done.stderr
