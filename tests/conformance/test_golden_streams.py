"""Streams byte for byte, as files beside this one: what a client of server-sent events gets.

Ids and the time of creation are replaced; all else is compared as it was sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted_service import DONE, ScriptedService, Step, plan, text
from tiny_cloud import TOOLS_TEMPLATE
from tiny_vocab import tiny_gguf_tokenizer

from picert.cloud.exchange import ModelFacts
from picert.cloud.http import Health, HttpLimits, ServedModel, create_app
from picert.errors import DeadlineExceeded
from picert.messages import Progress, SamplingParams, TextDelta, TokenLogprob
from picert.models.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"
QUESTION = {"messages": [{"role": "user", "content": "What helps?"}]}
TOOL = {"type": "function", "function": {"name": "rest", "parameters": {"type": "object"}}}
USAGE = {"stream_options": {"include_usage": True}}
LOGGED = TextDelta("", 0, 0, "a ", (TokenLogprob(70, -0.5, ((70, -0.5), (71, -1.25))),))
CALL = '<tool_call>\n{"name": "rest", "arguments": {"hours": 8}}\n</tool_call>'
CASES: dict[str, tuple[Sequence[Step], dict[str, Any]]] = {
    "chat": ([plan(), text("Rést.\n\n“🌱”"), text(" Eat."), DONE], {**QUESTION, **USAGE}),
    "chat_progress": (
        [plan(), Progress(request_id="", stage="sketch", text="Rest", index=0), text("a"), DONE],
        {**QUESTION, "picert": {"progress": True}},
    ),
    "chat_logprobs": (
        [plan("direct"), LOGGED, DONE],
        {**QUESTION, "logprobs": True, "top_logprobs": 2},
    ),
    "chat_tools": (
        [plan("direct"), text("Well. <tool"), text(CALL.removeprefix("<tool")), DONE],
        {**QUESTION, "tools": [TOOL]},
    ),
    "chat_error": ([plan(), text("Re"), DeadlineExceeded("time is over")], QUESTION),
    "completion": (
        [plan("direct"), LOGGED, text("b"), DONE],
        {"prompt": "One", "logprobs": 1, **USAGE},
    ),
}


def with_tools() -> Tokenizer:
    """The tiny tokenizer under a template that knows tools."""
    tokenizer = tiny_gguf_tokenizer()
    return Tokenizer(tokenizer._vocabulary, TOOLS_TEMPLATE)


async def streamed(script: Sequence[Step], body: dict[str, Any], keep_alive_s: float = 10) -> bytes:
    """What is sent for `body` where the service plays `script`."""
    app = create_app(
        *(ScriptedService(script), Health, [ServedModel("tiny", 0)]),
        ModelFacts(with_tools(), 512, SamplingParams()),
        HttpLimits(keep_alive_s=keep_alive_s),
    )
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://cloud"
    ) as client:
        response = await client.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    return response.content


def normalised(stream: bytes) -> str:
    """Without what differs from run to run."""
    shown = re.sub(r'"id":"(\w+[-_])[0-9a-f]+"', r'"id":"\1ID"', stream.decode("utf-8"))
    return re.sub(r'"created":\d+', '"created":0', shown)


@pytest.mark.parametrize("name", CASES)
async def test_stream_is_what_the_file_says(name: str) -> None:
    script, body = CASES[name]
    stream = normalised(await streamed(script, body))
    assert stream == (GOLDEN / f"{name}.sse").read_bytes().decode("utf-8")


async def test_comments_fill_silences_between_events() -> None:
    release = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, release.set)
    quiet = await streamed([plan(), text("a"), release, DONE], QUESTION, keep_alive_s=0.02)
    lively = await streamed([plan(), text("a"), DONE], QUESTION)
    assert quiet.count(b": keep-alive\n\n") >= 2
    assert normalised(quiet.replace(b": keep-alive\n\n", b"")) == normalised(lively)
