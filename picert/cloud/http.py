"""The front door: the application with its endpoints and the shape of its errors.

What answers questions is in `chat`, `completions` and `tokens`, the socket and the server's life in
`server`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI
from fastapi.requests import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from picert import __version__
from picert.cloud import sse
from picert.cloud.asking import Defaults
from picert.cloud.chat import add_chat
from picert.cloud.completions import add_completions
from picert.cloud.exchange import Answering, ModelFacts, Service, require_model
from picert.cloud.openai_response import ErrorBody, ModelList, ModelOut
from picert.cloud.openapi import Responses, document
from picert.cloud.tokens import add_tokens
from picert.errors import PicertError
from picert.messages import PROTOCOL_VERSION

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
    facts: ModelFacts,
    limits: HttpLimits | None = None,
) -> FastAPI:
    """The application: `models` are names of the one model that `facts` is about."""
    limits = limits or HttpLimits()
    template = facts.tokens.chat_template.source
    answering = Answering(
        service,
        tuple(model.id for model in models),
        facts,
        Defaults(facts.sampling, limits.deadline_s, template),
        limits.max_body_bytes,
        limits.keep_alive_s,
    )
    app = FastAPI(title="picert", version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(PicertError, _on_picert_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    add_chat(app, answering)
    add_completions(app, answering)
    add_tokens(app, answering)
    _add_models(app, {model.id: model for model in models})
    _add_health(app, health)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app


def _add_models(app: FastAPI, models: Mapping[str, ServedModel]) -> None:
    @app.get("/v1/models", responses={200: {"model": ModelList}})
    async def list_models() -> dict[str, Any]:
        """The names that `model` may be."""
        return {"object": "list", "data": [_model_object(model) for model in models.values()]}

    found: Responses = {200: {"model": ModelOut}, 404: {"model": ErrorBody}}

    @app.get("/v1/models/{model_id:path}", responses=found)
    async def get_model(model_id: str) -> dict[str, Any]:
        """One of them."""
        return _model_object(models[require_model(tuple(models), model_id)])


def _add_health(app: FastAPI, health: Callable[[], Health]) -> None:
    @app.get("/health")
    @app.get("/health/ready")
    async def ready(http: HttpRequest) -> JSONResponse:
        """Whether a question would be answered now; edges are named to those who have a key."""
        now = health()
        if now.reason is not None:
            return JSONResponse({"status": "not_ready", "reason": now.reason}, 503)
        edges = now.edges if getattr(http.state, "is_known", True) else ()
        return JSONResponse({"status": "ready", "edges": list(edges)})

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
