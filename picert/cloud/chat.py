"""`POST /v1/chat/completions`: read the request, ask the service, write the answer whole or as a
stream.

Whatever ends an answer (its end, an error, a client that left, a shutdown) closes the service's
iterator, and the service frees what the request held.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
from fastapi import FastAPI
from fastapi.requests import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from picert.cloud import sse
from picert.cloud.feed import Feed, unless_left
from picert.cloud.openai_request import ChatRequest, parse_chat, to_request
from picert.cloud.openai_response import (
    AnswerMessage,
    ChatCompletion,
    Choice,
    edges,
    report,
    usage,
)
from picert.errors import Cancelled, InvalidRequest, ModelNotFound, PicertError
from picert.log import get_logger
from picert.messages import AnswerEvent, Done, Progress, Request, SamplingParams, TextDelta

logger = get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@+=-]{1,128}")


class Service(Protocol):
    """What the front door needs of `CloudService`."""

    def answer(self, request: Request) -> AsyncGenerator[AnswerEvent, None]:
        """Events of one answer; closing the iterator cancels it. Raises PicertError."""
        ...


@dataclass(frozen=True, slots=True)
class ChatDoor:
    """What chat requests are answered with; the first of `models` answers where none is named."""

    service: Service
    models: tuple[str, ...]
    defaults: SamplingParams
    max_body_bytes: int
    deadline_s: float
    keep_alive_s: float


def add_chat(app: FastAPI, door: ChatDoor) -> None:
    """Let `app` answer chat requests."""

    @app.post("/v1/chat/completions", responses={200: {"model": ChatCompletion}})
    async def chat_completions(http: HttpRequest) -> Response:
        """Answer a conversation, whole or (`stream`) piece by piece."""
        exchange = await _accept(http, door)
        try:
            if exchange.chat.stream:
                return await _begin_stream(http, exchange, door.keep_alive_s)
            return await _answer_whole(http, exchange)
        except BaseException:
            await exchange.feed.close()
            raise


def require_model(models: tuple[str, ...], name: str) -> str:
    """`name`, if it is served. Raises ModelNotFound."""
    if name not in models:
        served = ", ".join(models)
        raise ModelNotFound(f"model {name[:100]!r} is not served here, {served} is", param="model")
    return name


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One chat request that was understood, and the answer to it that has not begun yet."""

    request_id: str  # the client's, or ours
    chat: ChatRequest
    feed: Feed
    chunks: sse.Chunks


async def _accept(http: HttpRequest, door: ChatDoor) -> _Exchange:
    """Read and check a request. Raises PicertError, or HTTPException for a body that is no JSON of
    bearable size.
    """
    given = _checked_id(http.headers.get("x-request-id"), "X-Request-Id")
    http.state.request_id = given
    chat = parse_chat(await _read_body(http, door.max_body_bytes))
    given = _checked_id(chat.request_id, "request_id") or given
    # Clients repeat their ids, and the service's must be unique.
    unique = f"{given}-{secrets.token_hex(4)}" if given else secrets.token_hex(16)
    http.state.request_id = given or unique
    model = require_model(door.models, chat.model) if chat.model else door.models[0]
    request = to_request(chat, unique, door.defaults, door.deadline_s)
    if chat.stream:  # the plan is a Progress event, and the headers name its route
        request = msgspec.structs.replace(request, progress=True)
    chunks = sse.Chunks(
        *(f"chatcmpl-{unique}", int(time.time()), model),
        include_usage=chat.stream_options is not None and chat.stream_options.include_usage,
        explain=chat.picert.explain,
    )
    return _Exchange(given or unique, chat, Feed(door.service.answer(request), unique), chunks)


async def _answer_whole(http: HttpRequest, exchange: _Exchange) -> Response:
    text, done = await unless_left(http.receive, exchange.feed.whole())
    await exchange.feed.close()
    choice = Choice(message=AnswerMessage(content=text), finish_reason=done.finish_reason)
    completion = ChatCompletion(
        id=exchange.chunks.id,
        created=exchange.chunks.created,
        model=exchange.chunks.model,
        choices=[choice],
        usage=usage(done),
        picert=report(done, exchange.chat.picert.explain),
    )
    headers = {
        "x-request-id": exchange.request_id,
        "x-picert-route": done.route,
        "x-picert-edges": ",".join(edges(done)),
        "x-picert-attempts": str(sum(segment.attempts for segment in done.segments) or 1),
        "x-picert-queue-ms": f"{done.queue_s * 1000:.0f}",
    }
    return JSONResponse(completion.model_dump(), headers=headers)


async def _begin_stream(
    http: HttpRequest, exchange: _Exchange, keep_alive_s: float
) -> _EventStream:
    """The response, once the service has begun to answer: an error until then has a status of its
    own.
    """
    opening = await unless_left(http.receive, exchange.feed.opening(keep_alive_s))
    headers = {
        "x-request-id": exchange.request_id,
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",  # a proxy shall pass events on as they come
    }
    for event in opening:
        if isinstance(event, Progress) and event.stage == "plan":
            headers["x-picert-route"] = event.text
    return _EventStream(exchange, opening, keep_alive_s, headers)


class _EventStream(Response):
    """A streamed answer. Closes its feed however it ends; Starlette's own streams leave that to the
    collector.
    """

    def __init__(
        self,
        exchange: _Exchange,
        opening: list[AnswerEvent],
        keep_alive_s: float,
        headers: dict[str, str],
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._exchange = exchange
        self._opening = opening
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every event, until the end or until the client has left."""
        try:
            await unless_left(receive, self._send(send))
        except (Cancelled, OSError) as left:
            logger.debug("%s", left, extra={"request_id": self._exchange.request_id})
        finally:
            await self._exchange.feed.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for piece in self._pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except PicertError as error:
            last = sse.event(sse.error_body(error))
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await self._exchange.feed.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The stream's bytes, event by event, with something said at least every `keep_alive_s`."""
        exchange, chunks = self._exchange, self._exchange.chunks
        yield chunks.role()
        quiet_since = time.monotonic()
        while True:
            if self._opening:
                event: AnswerEvent | None = self._opening.pop(0)
            else:
                patience_s = quiet_since + self._keep_alive_s - time.monotonic()
                event = await exchange.feed.next(max(0.0, patience_s))
            piece = self._piece(event)
            if piece:
                yield piece
                quiet_since = time.monotonic()
            if isinstance(event, Done):
                return

    def _piece(self, event: AnswerEvent | None) -> bytes:
        """What one event looks like on the wire; nothing for one that was not asked for."""
        chunks = self._exchange.chunks
        if event is None:
            return sse.KEEP_ALIVE
        if isinstance(event, TextDelta):
            return chunks.text(event) if event.text else b""
        if isinstance(event, Progress):
            return chunks.progress(event) if self._exchange.chat.picert.progress else b""
        return chunks.end(event)


async def _read_body(http: HttpRequest, limit: int) -> bytes:
    """The whole body. Raises HTTPException 415 if it is not declared as JSON, 413 if it is over
    `limit` bytes.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(
            415, f"Content-Type is {kind[:60] or 'missing'!r}: send JSON as application/json"
        )
    body = bytearray()
    too_large = HTTPException(
        413, f"the body is over {limit:,} bytes, the limit: send a shorter conversation"
    )
    announced = http.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large
    async for piece in http.stream():
        body += piece
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _checked_id(given: str | None, name: str) -> str | None:
    if given is not None and not _REQUEST_ID.fullmatch(given):
        raise InvalidRequest(
            f"{name} is {given[:60]!r}: give 1 to 128 letters, digits or . _ : @ + = -", param=name
        )
    return given
