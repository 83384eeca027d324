"""The front door on a real socket: clients that leave, ports that are taken, and the way down."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import httpx
import pytest
from scripted_service import DONE, WAIT_S, ScriptedService, facts, plan, running, text

from picert.cloud.http import Health, ServedModel, create_app
from picert.cloud.server import bind, serve
from picert.errors import ConfigError

BODY = {"messages": [{"role": "user", "content": "How do I rest?"}]}
PATH = "/v1/chat/completions"


async def closed(service: ScriptedService) -> None:
    """Until the service was told that nobody waits any more."""
    async with asyncio_timeout():
        while not service.num_closed:
            await asyncio.sleep(0)


@asynccontextmanager
async def asyncio_timeout() -> AsyncIterator[None]:
    task = asyncio.current_task()
    assert task is not None
    handle = asyncio.get_running_loop().call_later(WAIT_S, task.cancel)
    try:
        yield
    finally:
        handle.cancel()


async def raw_post(url: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request whose connection the test holds in its hand."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_before_any_text_closes_the_iterator(stream: bool) -> None:
    service = ScriptedService([plan(), asyncio.Event(), DONE])
    async with running(service) as (url, _):
        _, writer = await raw_post(url, json.dumps({**BODY, "stream": stream}).encode())
        await asyncio.wait_for(service.begun.wait(), WAIT_S)
        assert service.num_open == 1
        writer.close()
        await closed(service)
    assert service.num_open == 0


async def test_client_that_leaves_amid_a_stream_closes_the_iterator() -> None:
    service = ScriptedService([plan(), text("Walk."), asyncio.Event(), DONE])
    async with running(service) as (url, _):
        reader, writer = await raw_post(url, json.dumps({**BODY, "stream": True}).encode())
        await asyncio.wait_for(reader.readuntil(b"Walk."), WAIT_S)
        writer.close()
        await closed(service)
    assert service.num_open == 0


async def test_one_client_that_leaves_does_not_disturb_another() -> None:
    release = asyncio.Event()
    service = ScriptedService([plan(), release, text("Walk."), DONE])
    async with running(service) as (url, _), httpx.AsyncClient(base_url=url) as client:
        staying = asyncio.create_task(client.post(PATH, json=BODY))
        _, writer = await raw_post(url, json.dumps(BODY).encode())
        async with asyncio_timeout():
            while service.num_open < 2:
                await asyncio.sleep(0)
        writer.close()
        await closed(service)
        release.set()
        response = await asyncio.wait_for(staying, WAIT_S)
    assert response.json()["choices"][0]["message"]["content"] == "Walk."
    assert (service.num_open, service.num_closed) == (0, 2)


async def test_text_is_sent_as_it_comes() -> None:
    release = asyncio.Event()
    service = ScriptedService([plan(), text("Walk."), release, text("Rest."), DONE])
    async with running(service) as (url, _):
        reader, writer = await raw_post(url, json.dumps({**BODY, "stream": True}).encode())
        await asyncio.wait_for(reader.readuntil(b"Walk."), WAIT_S)
        assert service.num_open == 1
        release.set()
        await asyncio.wait_for(reader.readuntil(b"[DONE]"), WAIT_S)
        writer.close()


async def test_body_over_the_limit_gets_its_answer() -> None:
    async with running(ScriptedService([])) as (url, _):
        reader, writer = await raw_post(url, b" " * 20_000)
        assert b"413" in await asyncio.wait_for(reader.readline(), WAIT_S)
        writer.close()


async def test_stop_waits_for_answers_under_way() -> None:
    release = asyncio.Event()
    service = ScriptedService([plan(), release, text("Walk."), DONE])
    async with running(service, 5.0) as (url, stop), httpx.AsyncClient(base_url=url) as client:
        answer = asyncio.create_task(client.post(PATH, json=BODY))
        await asyncio.wait_for(service.begun.wait(), WAIT_S)
        stop.set()
        asyncio.get_running_loop().call_later(0.05, release.set)
        response = await asyncio.wait_for(answer, WAIT_S)
    assert response.status_code == 200


async def test_answer_that_outlives_the_shutdown_is_cut_off_and_closed() -> None:
    service = ScriptedService([plan(), asyncio.Event(), DONE])
    async with running(service) as (url, stop):
        _, writer = await raw_post(url, json.dumps(BODY).encode())
        await asyncio.wait_for(service.begun.wait(), WAIT_S)
        stop.set()
    assert service.num_closed == 1
    writer.close()


async def test_pieces_of_a_stream_are_not_held_back_by_nagle() -> None:
    with closing(bind("127.0.0.1", 0)) as listener:
        made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(
            lambda _, w: made.set_result(w.transport), sock=listener
        )
        _, writer = await asyncio.open_connection(*listener.getsockname())
        accepted = (await asyncio.wait_for(made, WAIT_S)).get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        (await made).close()
        server.close()
        await server.wait_closed()


def test_port_in_use_is_refused_by_name() -> None:
    with closing(bind("127.0.0.1", 0)) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*give another"):
            bind("localhost", port)


async def test_port_that_was_taken_after_bind_is_refused_by_name() -> None:
    with closing(bind("127.0.0.1", 0)) as first:
        second = bind("127.0.0.1", first.getsockname()[1])
        first.listen()
        app = create_app(ScriptedService([]), Health, [ServedModel("m", 0)], facts())
        with pytest.raises(ConfigError, match="give another"):
            await serve(app, second, ready=lambda port: None, stop=asyncio.Event())
