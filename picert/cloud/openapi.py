"""What `/openapi.json` says of an endpoint that reads its body itself: what it takes, and what it
answers with.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from picert.cloud.openai_response import ErrorBody
from picert.cloud.openai_schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_ERRORS = {
    400: "the request cannot be served as it is; `param` names the field",
    404: "no such model or path",
    408: "its time is over",
    413: "the body is too large",
    415: "the body is not declared as JSON",
    429: "too much is in flight: try again after `Retry-After` seconds",
    500: "a fault of ours",
    503: "about to stop, or without an engine: try again after `Retry-After` seconds",
}
Responses = dict[int | str, dict[str, Any]]


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The body of an endpoint, for `openapi_extra`."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def answers_with(model: type[BaseModel], *, streams: bool = False) -> Responses:
    """What an endpoint answers, for `responses`."""
    good: dict[str, Any] = {"model": model}
    if streams:
        text = {"schema": {"description": "server-sent events, each the JSON of a chunk"}}
        good["content"] = {"text/event-stream": text}
    responses: Responses = {200: good}
    for status, told in _ERRORS.items():
        responses[status] = {"model": ErrorBody, "description": told}
    return responses


def document(app: FastAPI) -> dict[str, Any]:
    """The generated document, with the bodies that FastAPI does not see."""
    made = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, definitions = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template=_REF
    )
    made.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    return made
