"""Serving an application on a loopback address: the socket, and uvicorn from start to stop.

No signal handler is set here: they are the process's, which sets `stop`.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

import uvicorn
from fastapi import FastAPI

from picert.errors import ConfigError

_CANCEL_GRACE_S = 5.0  # for answers that were cut off at the end to free what they held


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket bound to a loopback address; port 0 takes any free one. Raises ConfigError.

    It does not listen yet: a process can bind first, load its model, and refuse connections until
    it can answer.
    """
    address = _loopback(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise _not_free(host, port, error) from None
    return listener


async def serve(
    app: FastAPI,
    listener: socket.socket,
    *,
    ready: Callable[[int], None],
    stop: asyncio.Event,
    shutdown_timeout_s: float = 10.0,
) -> None:
    """Answer on `listener` until `stop` is set, then take no new connections and let answers end.

    `ready` is told the port once connections are accepted. What is left after `shutdown_timeout_s`
    is cancelled. Raises ConfigError if another process took the port between bind and now.
    """
    host, port = listener.getsockname()[:2]
    server = _new_server(app, shutdown_timeout_s)
    try:
        await server.startup(sockets=[listener])
    except OSError as error:
        listener.close()
        raise _not_free(host, port, error) from None
    running = asyncio.create_task(server.main_loop())
    try:
        ready(port)
        await stop.wait()
    finally:
        server.should_exit = True
        await running
        await server.shutdown(sockets=[listener])
        if server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=_CANCEL_GRACE_S)


def _new_server(app: FastAPI, shutdown_timeout_s: float) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(shutdown_timeout_s),
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server


def _loopback(host: str) -> str:
    """The address `host` stands for, if it stays on this machine."""
    name = "127.0.0.1" if host == "localhost" else host.strip("[]")
    with suppress(ValueError):
        if ip_address(name).is_loopback:
            return name
    raise ConfigError(
        f"host is {host!r}, must be a loopback address (127.0.0.1, ::1 or localhost): there are "
        "no API keys yet, so put a proxy that checks them in front",
        param="host",
    )


def _not_free(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot serve on {host} port {port}: {error.strerror}: "
        "give another port (0 takes any free one)",
        param="port",
    )
