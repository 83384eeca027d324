"""Serving an application: the socket, and uvicorn from start to stop.

No signal handler is set here: they are the process's, which sets `stop`.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from picert.errors import ConfigError

_CANCEL_GRACE_S = 5.0  # for answers that were cut off at the end to free what they held
_MAX_HEAD_BYTES = 32 << 10  # request line and headers
_MAX_CONNECTIONS = 8192  # beyond it uvicorn answers 503 itself, before any of our code runs
_BACKLOG = 1024
_SOCKET_MODE = 0o660  # of a Unix socket: its user and group


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a server certificate, PEM."""

    keyfile: str
    certfile: str


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve: what is left `shutdown_timeout_s` after the stop is cancelled."""

    shutdown_timeout_s: float = 10.0
    tls: Tls | None = None


DEFAULTS = ServerOptions()


def is_loopback(host: str) -> bool:
    """`host` cannot be reached from another machine."""
    with suppress(ValueError):
        return ip_address(_number(host)).is_loopback
    return False


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket bound to an address of this machine; port 0 takes any free one.

    It does not listen yet: a process can bind first, load its model, and refuse connections until
    it can answer. Raises ConfigError.
    """
    try:
        found = socket.getaddrinfo(
            _number(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host {host!r} is not known here: {error}", param="host") from None
    family, _, _, _, address = found[0]
    # NOTE: asyncio turns Nagle's delay off (40 ms a piece of a stream) only where the protocol is
    # named.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _not_free(host, port, error) from None
    return listener


def bind_unix(path: str) -> socket.socket:
    """A Unix socket at `path`, replacing one that a dead process left. Raises ConfigError."""
    place = Path(path)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(place.lstat().st_mode):
            raise ConfigError(f"--uds {path} exists and is not a socket: give another path")
        if _is_served(path):
            raise ConfigError(f"--uds {path} is in use: stop the other process")
        place.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, _SOCKET_MODE)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot serve on --uds {path}: {error.strerror or error}") from None
    return listener


def tls_of(keyfile: str | None, certfile: str | None) -> Tls | None:
    """The certificate to serve with, tried before anything is loaded. Raises ConfigError."""
    if keyfile is None and certfile is None:
        return None
    if keyfile is None or certfile is None:
        raise ConfigError("--ssl-keyfile and --ssl-certfile belong together: give both")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"--ssl-certfile {certfile} with --ssl-keyfile {keyfile}: {error}: give PEM files "
            "that belong together"
        ) from None
    return Tls(keyfile, certfile)


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    ready: Callable[[int], None],
    stop: asyncio.Event,
    options: ServerOptions = DEFAULTS,
) -> None:
    """Answer on `listener` until `stop` is set, then take no new connections and let answers end.

    `ready` is told the port (0: a Unix socket) once connections are accepted. Raises ConfigError if
    another process took the port between bind and now.
    """
    host, port = _place(listener)
    server = _new_server(app, options)
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


def _new_server(app: ASGIApp, options: ServerOptions) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody may say who he is by a header
        backlog=_BACKLOG,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        timeout_graceful_shutdown=math.ceil(options.shutdown_timeout_s),
        ssl_keyfile=options.tls.keyfile if options.tls else None,
        ssl_certfile=options.tls.certfile if options.tls else None,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server


def _number(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host.strip("[]")


def _place(listener: socket.socket) -> tuple[str, int]:
    if listener.family == socket.AF_UNIX:
        return str(listener.getsockname()), 0
    host, port = listener.getsockname()[:2]
    return host, port


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _not_free(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot serve on {host} port {port}: {error.strerror}: "
        "give another port (0 takes any free one)",
        param="port",
    )
