"""The front door: the application with its endpoints and error bodies, and serving it on a loopback
address.

`POST /v1/chat/completions` is in `chat`. No signal handler is set here: they are the process's,
which sets `stop`.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.requests import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from picert import __version__
from picert.cloud import sse
from picert.cloud.chat import ChatDoor, Service, add_chat, require_model
from picert.errors import ConfigError, PicertError
from picert.messages import PROTOCOL_VERSION, SamplingParams

_BACKLOG = 256  # connections that wait to be accepted
_CANCEL_GRACE_S = 5.0  # for answers that were cut off at the end to free what they held
_RETRY_AFTER_S: Mapping[int, str] = MappingProxyType({429: "1", 503: "2"})
_CODES: Mapping[int, str] = MappingProxyType(
    {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "wrong_content_type"}
)


@dataclass(frozen=True, slots=True)
class Health:
    """`reason` says why nothing can be answered now, None that all is well; `edges` are the ones
    that take jobs.
    """

    reason: str | None = None
    edges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A name under which questions are answered; `created` is a Unix time in seconds."""

    id: str
    created: int
    owned_by: str = "picert"


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one request."""

    max_body_bytes: int = 1 << 20
    deadline_s: float = 300.0  # where the request names none
    keep_alive_s: float = 10.0  # longest silence of a stream


def create_app(
    service: Service,
    health: Callable[[], Health],
    models: Sequence[ServedModel],
    limits: HttpLimits | None = None,
    default_sampling: SamplingParams | None = None,
) -> FastAPI:
    """The application. `default_sampling` (the model's generation config) fills in what a request
    leaves out.
    """
    limits = limits or HttpLimits()
    door = ChatDoor(
        service,
        tuple(model.id for model in models),
        default_sampling or SamplingParams(),
        limits.max_body_bytes,
        limits.deadline_s,
        limits.keep_alive_s,
    )
    app = FastAPI(title="picert", version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(PicertError, _on_picert_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    add_chat(app, door)
    _add_models(app, {model.id: model for model in models})
    _add_health(app, health)
    return app


def _add_models(app: FastAPI, models: Mapping[str, ServedModel]) -> None:
    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The names that `model` may be."""
        return {"object": "list", "data": [_model_object(model) for model in models.values()]}

    @app.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> dict[str, Any]:
        """One of them."""
        return _model_object(models[require_model(tuple(models), model_id)])


def _add_health(app: FastAPI, health: Callable[[], Health]) -> None:
    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        """Whether a question would be answered now."""
        now = health()
        if now.reason is not None:
            return JSONResponse({"status": "not_ready", "reason": now.reason}, 503)
        return JSONResponse({"status": "ready", "edges": list(now.edges)})

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether this process answers at all."""
        return {"status": "live"}

    @app.get("/version")
    async def version() -> dict[str, str | int]:
        """Of picert and of the edge link's protocol."""
        return {"version": __version__, "protocol": PROTOCOL_VERSION}


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
    }


async def _on_picert_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, PicertError)
    return _error_response(http, error.status, sse.error_body(error))


async def _on_http_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, message = error.status_code, error.detail
    if status in (404, 405):
        path = http.url.path[:100]
        message = f"{http.method} {path} does not exist here: /openapi.json lists what does"
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    body = {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}
    return _error_response(http, status, {"error": body}, error.headers)


async def _on_fault(http: HttpRequest, error: Exception) -> Response:
    """A fault of ours: the log gets the story, the client a 500 without it."""
    fault = PicertError("internal error: see the cloud's log")
    return _error_response(http, fault.status, sse.error_body(fault))


def _error_response(
    http: HttpRequest, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    more = dict(headers or {})
    if status in _RETRY_AFTER_S:
        more["retry-after"] = _RETRY_AFTER_S[status]
    request_id = getattr(http.state, "request_id", None)
    if request_id is not None:
        more["x-request-id"] = request_id
    return JSONResponse(body, status, more)


# --- serving --------------------------------------------------------------------------------------


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket that listens on a loopback address; port 0 takes any. Raises ConfigError."""
    address = _loopback(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _not_free(host, port, error) from None
    return listener


async def serve(  # noqa: PLR0913 (the four keywords are one process's life, told by name)
    app: FastAPI,
    host: str,
    port: int,
    *,
    ready: Callable[[int], None],
    stop: asyncio.Event,
    drain: Callable[[], Awaitable[None]] | None = None,
    shutdown_timeout_s: float = 10.0,
) -> None:
    """Answer on a loopback address until `stop` is set; port 0 takes any free one.

    `ready` is told the port once connections are accepted. After `stop` comes `drain`, during which
    requests are still answered, then no new connections, and after `shutdown_timeout_s` the end of
    what is left. Raises ConfigError if the address is not loopback or not free.
    """
    listener = bind(host, port)
    server = _new_server(app, shutdown_timeout_s)
    await server.startup(sockets=[listener])
    running = asyncio.create_task(server.main_loop())
    try:
        ready(listener.getsockname()[1])
        await stop.wait()
        if drain is not None:
            await drain()
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
