"""One exchange with a client: its body and ids in, the answer out, whole or as a stream. What the
answer looks like is its `Form`'s affair.

Whatever ends an answer (its end, an error, a client that left, a shutdown) closes the service's
iterators, and the service frees what the request held.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi.requests import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from picert.cloud import sse
from picert.cloud.asking import Defaults
from picert.cloud.feed import Feed, IndexedEvent, Whole, unless_left
from picert.cloud.openai_response import edges
from picert.errors import Cancelled, InvalidRequest, ModelNotFound, PicertError
from picert.log import get_logger
from picert.messages import (
    AnswerEvent,
    ChatMessage,
    Done,
    Progress,
    Request,
    SamplingParams,
    TextDelta,
)

logger = get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@+=-]{1,128}")


class Service(Protocol):
    """What the front door needs of `CloudService`."""

    def answer(self, request: Request) -> AsyncGenerator[AnswerEvent, None]:
        """Events of one answer; closing the iterator cancels it. Raises PicertError."""
        ...


class Template(Protocol):
    """A model's chat template."""

    source: str | None


class Tokens(Protocol):
    """The served model's tokenizer."""

    vocab_size: int

    @property
    def chat_template(self) -> Template:
        """How conversations are written; None in it where there is none."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt."""

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        prefill: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation. Raises InvalidRequest."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids. Raises InvalidRequest."""

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that answers: its tokenizer, how many tokens its context holds, and how it samples
    where a request leaves that out (its generation config).
    """

    tokens: Tokens
    max_model_len: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Answering:
    """What requests are answered with; the first of `models` answers where none is named."""

    service: Service
    models: tuple[str, ...]
    facts: ModelFacts
    defaults: Defaults
    max_body_bytes: int
    keep_alive_s: float

    def model(self, name: str | None) -> str:
        """The model of a request that names `name`. Raises ModelNotFound."""
        return self.models[0] if name is None else require_model(self.models, name)


class Form(Protocol):
    """What the answers of one exchange look like; it follows them, so it is for one use.

    All but `whole` give the bytes of events, which may be none; `index` says of which answer.
    """

    def begin(self) -> bytes:
        """Before anything else."""

    def text(self, index: int, delta: TextDelta) -> bytes:
        """More of an answer."""

    def progress(self, index: int, progress: Progress) -> bytes:
        """What goes on behind an answer."""

    def end(self, index: int, done: Done) -> bytes:
        """The end of one answer."""

    def close(self) -> bytes:
        """The end of all."""

    def whole(self, answers: Sequence[Whole]) -> dict[str, Any]:
        """The body where nothing is streamed."""


@dataclass(frozen=True, slots=True)
class Ids:
    """What names one exchange."""

    shown: str  # the client's, or ours
    unique: str  # the service's: clients repeat theirs


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was understood, and the answers to it that have not begun yet."""

    ids: Ids
    feed: Feed
    form: Form
    is_stream: bool


def require_model(models: tuple[str, ...], name: str) -> str:
    """`name`, if it is served. Raises ModelNotFound."""
    if name not in models:
        served = ", ".join(models)
        raise ModelNotFound(f"model {name[:100]!r} is not served here, {served} is", param="model")
    return name


def note_header_id(http: HttpRequest) -> None:
    """Remember the client's id, so that an error bears it too. Raises InvalidRequest."""
    http.state.request_id = _checked_id(http.headers.get("x-request-id"), "X-Request-Id")


def make_ids(http: HttpRequest, given: str | None) -> Ids:
    """The ids of a request whose body says `given`. Raises InvalidRequest."""
    given = _checked_id(given, "request_id") or http.state.request_id
    unique = f"{given}-{secrets.token_hex(4)}" if given else secrets.token_hex(16)
    http.state.request_id = given or unique
    return Ids(given or unique, unique)


def open_feed(answering: Answering, requests: Sequence[Request], ids: Ids) -> Feed:
    """The answers to `requests`, of which none has begun."""
    return Feed([answering.service.answer(request) for request in requests], ids.unique)


async def respond(http: HttpRequest, exchange: Exchange, keep_alive_s: float) -> Response:
    """The response. Raises PicertError where there is no answer."""
    try:
        if exchange.is_stream:
            return await _begin_stream(http, exchange, keep_alive_s)
        return await _answer_whole(http, exchange)
    except BaseException:
        await exchange.feed.close()
        raise


async def read_body(http: HttpRequest, limit: int) -> bytes:
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


async def _answer_whole(http: HttpRequest, exchange: Exchange) -> Response:
    answers = await unless_left(http.receive, exchange.feed.whole())
    await exchange.feed.close()
    dones = [answer.done for answer in answers if answer.done is not None]
    names = dict.fromkeys(name for done in dones for name in edges(done))
    attempts = sum(segment.attempts for done in dones for segment in done.segments)
    headers = {
        "x-request-id": exchange.ids.shown,
        "x-picert-route": dones[0].route,
        "x-picert-edges": ",".join(names),
        "x-picert-attempts": str(attempts or len(dones)),
        "x-picert-queue-ms": f"{max(done.queue_s for done in dones) * 1000:.0f}",
    }
    return JSONResponse(exchange.form.whole(answers), headers=headers)


async def _begin_stream(http: HttpRequest, exchange: Exchange, keep_alive_s: float) -> _EventStream:
    """The response, once the service has begun to answer: an error until then has a status of its
    own.
    """
    opening = await unless_left(http.receive, exchange.feed.opening(keep_alive_s))
    headers = {
        "x-request-id": exchange.ids.shown,
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",  # a proxy shall pass events on as they come
    }
    for _, event in opening:
        if isinstance(event, Progress) and event.stage == "plan":
            headers["x-picert-route"] = event.text
    return _EventStream(exchange, opening, keep_alive_s, headers)


class _EventStream(Response):
    """A streamed answer. Closes its feed however it ends; Starlette's own streams leave that to the
    collector.
    """

    def __init__(
        self,
        exchange: Exchange,
        opening: list[IndexedEvent],
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
            logger.debug("%s", left, extra={"request_id": self._exchange.ids.shown})
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
        """The stream's bytes, with something said at least every `keep_alive_s`; what is there at
        the same time goes in one piece.
        """
        feed, form = self._exchange.feed, self._exchange.form
        piece = b"".join((form.begin(), *(_written(form, *item) for item in self._opening)))
        quiet_since = time.monotonic()
        while not feed.is_over:
            if piece:
                yield piece
                quiet_since = time.monotonic()
            patience_s = quiet_since + self._keep_alive_s - time.monotonic()
            item = await feed.next(max(0.0, patience_s))
            piece = sse.KEEP_ALIVE if item is None else _written(form, *item)
        yield piece + form.close()


def _written(form: Form, index: int, event: AnswerEvent) -> bytes:
    if isinstance(event, TextDelta):
        return form.text(index, event)
    if isinstance(event, Progress):
        return form.progress(index, event)
    return form.end(index, event)


def _checked_id(given: str | None, name: str) -> str | None:
    if given is not None and not _REQUEST_ID.fullmatch(given):
        raise InvalidRequest(
            f"{name} is {given[:60]!r}: give 1 to 128 letters, digits or . _ : @ + = -", param=name
        )
    return given
