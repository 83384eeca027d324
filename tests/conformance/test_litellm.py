"""LiteLLM, which speaks for many providers, with the cloud as one that is like OpenAI."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scripted_service import ScriptedService
from served import scripted_app, served

from picert.errors import QueueFull

CALLS = Path(__file__).parent.parent / "support" / "litellm_calls.py"


@pytest.fixture(scope="module")
def told(url: str) -> dict[str, Any]:
    """What its calls gave."""
    with served(partial(scripted_app, ScriptedService([QueueFull("no room")]))) as full:
        command = [sys.executable, str(CALLS), url, full]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_streamed_and_whole_answers_are_the_same(told: dict[str, Any]) -> None:
    answers = told["answers"]
    assert answers["whole"] == answers["streamed"] != ""
    usage = answers["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_refusal_and_full_queue_are_its_own_errors(told: dict[str, Any]) -> None:
    assert told["bad"]["type"] == "BadRequestError"
    assert "top_p is 0" in told["bad"]["text"]
    assert told["full"]["type"] == "RateLimitError"
    assert "no room" in told["full"]["text"]


def test_async_stream_gives_the_usage(told: dict[str, Any]) -> None:
    assert told["streamed_usage"] == [8]


def test_tools_pass_through(told: dict[str, Any]) -> None:
    assert told["tool"] == {"name": "rest", "finish_reason": "tool_calls"}
