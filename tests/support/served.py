"""An application served on loopback by a thread, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from fastapi import FastAPI
from scripted_service import ScriptedService, facts

from picert.cloud.http import Health, ServedModel, create_app
from picert.cloud.server import ServerOptions, bind, serve

START_S = 30.0
MakeApp = Callable[[], AbstractAsyncContextManager[FastAPI]]


@contextmanager
def served(make_app: MakeApp) -> Iterator[str]:
    """The URL under which the application that `make_app` gives is served."""
    started: Future[tuple[str, Callable[[], None]]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(make_app, started)), daemon=True)
    thread.start()
    url, stop = started.result(START_S)
    try:
        yield url
    finally:
        stop()
        thread.join(START_S)


@asynccontextmanager
async def scripted_app(service: ScriptedService) -> AsyncIterator[FastAPI]:
    """An application over a scripted service, under the name `tiny`."""
    yield create_app(service, Health, [ServedModel("tiny", 1_700_000_000)], facts())


async def _serve(make_app: MakeApp, started: Future[tuple[str, Callable[[], None]]]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def is_ready(port: int) -> None:
        started.set_result(
            (f"http://127.0.0.1:{port}", lambda: loop.call_soon_threadsafe(stop.set) and None)
        )

    try:
        async with make_app() as app:
            listener = bind("127.0.0.1", 0)
            options = ServerOptions(shutdown_timeout_s=1.0)
            await serve(app, listener, ready=is_ready, stop=stop, options=options)
    except BaseException as error:
        if not started.done():
            started.set_exception(error)
        raise
