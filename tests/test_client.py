"""Both clients against the real front door, over a scripted service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing, closing
from typing import Any

import pytest
from scripted_service import DONE, WAIT_S, ScriptedService, Step, plan, running, text

from picert.client import Answer, Client, ProgressiveClient
from picert.cloud.server import bind
from picert.errors import (
    ConfigError,
    ContextLengthExceeded,
    InvalidRequest,
    PicertError,
    ProtocolError,
    QueueFull,
    Unavailable,
)
from picert.messages import ChatMessage, Done, Progress, SamplingParams, TextDelta

ANSWER: list[Step] = [plan(), text("Walk. "), text("Rést. 🌱"), DONE]
Ask = Callable[..., Any]


async def ask_blocking(url: str, *args: Any, **options: Any) -> Answer:
    def ask() -> Answer:
        with Client(url) as client:
            return client.ask(*args, **options)

    return await asyncio.wait_for(asyncio.to_thread(ask), WAIT_S)


async def ask_async(url: str, *args: Any, **options: Any) -> Answer:
    async with ProgressiveClient(url) as client:
        return await asyncio.wait_for(client.ask(*args, **options), WAIT_S)


both = pytest.mark.parametrize("ask", [ask_blocking, ask_async])


@both
async def test_answer_holds_text_and_report(ask: Ask) -> None:
    async with running(ScriptedService(ANSWER)) as (url, _):
        answer = await ask(url, "How do I rest?")
    assert answer.text == "Walk. Rést. 🌱"
    expected = {
        name: getattr(DONE, name) for name in DONE.__struct_fields__ if name != "request_id"
    }
    told = {name: getattr(answer.done, name) for name in expected}
    assert told == expected
    assert answer.done.request_id.startswith("chatcmpl-")


@both
async def test_question_route_sampling_and_deadline_reach_the_service(ask: Ask) -> None:
    service = ScriptedService(ANSWER)
    sampling = SamplingParams(temperature=0.3, seed=5, stop=("END",), logit_bias={7: 1.0})
    messages = [ChatMessage("system", "Be brief."), ChatMessage("user", "How?")]
    async with running(service) as (url, _):
        await ask(url, messages, route="direct", sampling=sampling, deadline_s=2.5)
    (request,) = service.requests
    assert request.messages == tuple(messages)
    assert (request.route, request.deadline_s) == ("direct", 2.5)
    assert request.sampling == sampling


async def test_events_come_one_by_one_with_progress() -> None:
    note = Progress(request_id="", stage="expand", index=1, edge="b", text="Rest", done=1, total=3)
    service = ScriptedService([plan(), note, text("Walk."), DONE])
    async with running(service) as (url, _), ProgressiveClient(url) as client:
        events = [event async for event in client.stream("How?", progress=True)]
    assert [type(event) for event in events] == [Progress, Progress, TextDelta, Done]
    assert isinstance(events[1], Progress)
    assert (events[1].stage, events[1].edge, events[1].text) == ("expand", "b", "Rest")


async def test_closing_the_stream_cancels_the_answer() -> None:
    service = ScriptedService([plan(), text("Walk."), asyncio.Event(), DONE])
    async with running(service) as (url, _):
        async with ProgressiveClient(url) as client, aclosing(client.stream("How?")) as events:
            async for _event in events:
                break
        while not service.num_closed:
            await asyncio.sleep(0)
    assert service.num_open == 0


@both
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    "error",
    [QueueFull("full"), ContextLengthExceeded("too long"), InvalidRequest("odd", param="seed")],
)
async def test_errors_come_back_as_what_they_were(
    ask: Ask, begun: bool, error: PicertError
) -> None:
    script: list[Step] = [plan(), text("Walk."), error] if begun else [error]
    async with running(ScriptedService(script)) as (url, _):
        with pytest.raises(PicertError, match=error.message) as caught:
            await ask(url, "How?")
    if error.code is not None:
        assert type(caught.value) is type(error)
    assert caught.value.param == error.param


@both
async def test_no_cloud_is_one_line_with_the_url_and_what_to_do(ask: Ask) -> None:
    with closing(bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable) as caught:
        await ask(f"http://127.0.0.1:{port}", "How?")
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "picert-cloud" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:x", ""])
def test_bad_url_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="give one like"):
        Client(url)


async def serve_bytes(content: bytes) -> tuple[asyncio.Server, str]:
    """A server that is not ours: it answers anything with `content` and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await reader.readuntil(b"}}")  # the whole body, or closing would reset the connection
        writer.write(content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@both
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\n<hi>", ProtocolError),
        (SSE + b"data: {}\n\n", ProtocolError),
        (SSE + b"data: [1]\n\n", ProtocolError),
        (SSE + b'data: {"id":"a","choices":[{"delta":{},"finish_reason":null}]}\n\n', Unavailable),
        (SSE + b"data: [DONE]\n\n", Unavailable),
        (b"nonsense\r\n\r\n", Unavailable),
    ],
)
async def test_servers_that_are_not_ours_are_named_errors(
    ask: Ask, content: bytes, error: type[PicertError]
) -> None:
    server, url = await serve_bytes(content)
    async with server:
        with pytest.raises(error):
            await ask(url, "How?")


async def test_ready_edges_are_named_and_not_ready_says_why() -> None:
    async with running(ScriptedService([])) as (url, _), ProgressiveClient(url) as client:
        assert await client.ready_edges() == []
    body = json.dumps({"status": "not_ready", "reason": "the engine has stopped"}).encode()
    head = f"HTTP/1.1 503 No\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    server, url = await serve_bytes(head + body)
    async with server, ProgressiveClient(url) as client:
        with pytest.raises(Unavailable, match="the engine has stopped"):
            await client.ready_edges()
