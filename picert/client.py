"""Clients of a picert cloud: `Client` blocks, `ProgressiveClient` is the same for asyncio.

Both send the same body and read the same stream; only the waiting differs. What they yield are the
events that the cloud's service yields (`TextDelta`, `Progress`, then one `Done`), and what they
raise are `picert.errors`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import httpx

from picert.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    PicertError,
    ProtocolError,
    Unavailable,
    error_from_code,
)
from picert.messages import (
    AnswerEvent,
    ChatMessage,
    Done,
    Progress,
    Route,
    SamplingParams,
    SegmentReport,
    TextDelta,
    Usage,
)

DEFAULT_URL = "http://127.0.0.1:8000"
_READY = "/health/ready"
_CHAT = "/v1/chat/completions"
_CONNECT_TIMEOUT_S = 5.0
_SILENCE_S = 60.0  # a cloud says something every 10 s, if only a comment
_TIMES = ("queue", "sketch", "first_text", "total")
Conversation = str | Sequence[ChatMessage]


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: its text, and how it came to be (route, segments, tokens, times)."""

    text: str
    done: Done


class Client:
    """Asks one cloud and waits for it; use it in a `with` block, or `close` it."""

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None) -> None:
        self._url = _checked_url(url)
        self._http = httpx.Client(**_settings(self._url, api_key))

    def ask(
        self,
        question: Conversation,
        *,
        route: Route = "auto",
        sampling: SamplingParams | None = None,
        deadline_s: float | None = None,
    ) -> Answer:
        """The whole answer. Without `sampling` the model's defaults hold. Raises PicertError."""
        return _collected(
            list(self.stream(question, route=route, sampling=sampling, deadline_s=deadline_s))
        )

    def stream(
        self,
        question: Conversation,
        *,
        route: Route = "auto",
        sampling: SamplingParams | None = None,
        deadline_s: float | None = None,
        progress: bool = False,
    ) -> Generator[AnswerEvent, None, None]:
        """The answer's events as they come, with Progress among them if asked for.

        Closing the iterator cancels the rest of the answer. Raises PicertError.
        """
        body = _body(question, sampling, _ours(route, deadline_s, progress))
        reader = _Reader()
        with (
            _named_errors(self._url),
            self._http.stream("POST", _CHAT, json=body) as response,
        ):
            if response.status_code != 200:
                raise _error(response.status_code, response.read())
            for line in response.iter_lines():
                yield from reader.read(line)
        reader.require_end()

    def ready_edges(self) -> list[str]:
        """Names of the edges that take jobs. Raises Unavailable if the cloud is not ready."""
        with _named_errors(self._url):
            return _edges(self._http.get(_READY))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ProgressiveClient:
    """`Client` for asyncio; use it in an `async with` block, or `close` it."""

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None) -> None:
        self._url = _checked_url(url)
        self._http = httpx.AsyncClient(**_settings(self._url, api_key))

    async def ask(
        self,
        question: Conversation,
        *,
        route: Route = "auto",
        sampling: SamplingParams | None = None,
        deadline_s: float | None = None,
    ) -> Answer:
        """The whole answer. Without `sampling` the model's defaults hold. Raises PicertError."""
        events = self.stream(question, route=route, sampling=sampling, deadline_s=deadline_s)
        return _collected([event async for event in events])

    async def stream(
        self,
        question: Conversation,
        *,
        route: Route = "auto",
        sampling: SamplingParams | None = None,
        deadline_s: float | None = None,
        progress: bool = False,
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The answer's events as they come, with Progress among them if asked for.

        Closing the iterator cancels the rest of the answer. Raises PicertError.
        """
        body = _body(question, sampling, _ours(route, deadline_s, progress))
        reader = _Reader()
        with _named_errors(self._url):
            async with self._http.stream("POST", _CHAT, json=body) as response:
                if response.status_code != 200:
                    raise _error(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    for event in reader.read(line):
                        yield event
        reader.require_end()

    async def ready_edges(self) -> list[str]:
        """Names of the edges that take jobs. Raises Unavailable if the cloud is not ready."""
        with _named_errors(self._url):
            return _edges(await self._http.get(_READY))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> ProgressiveClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


# --- the request ----------------------------------------------------------------------------------


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"url is {url!r} ({error}): give one like {DEFAULT_URL}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"url is {url!r}: give one like {DEFAULT_URL}", param="url")
    return url.rstrip("/")


def _settings(url: str, api_key: str | None) -> dict[str, Any]:
    """What both httpx clients are made with; a proxy is never asked for this machine itself."""
    host = httpx.URL(url).host
    is_local = host == "localhost"
    with suppress(ValueError):
        is_local = is_local or ip_address(host).is_loopback
    timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_TIMEOUT_S)
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": url, "timeout": timeout, "trust_env": not is_local, "headers": headers}


def _ours(route: Route, deadline_s: float | None, progress: bool) -> dict[str, Any]:
    ours: dict[str, Any] = {"route": route, "explain": True, "progress": progress}
    if deadline_s is not None:
        ours["deadline_ms"] = max(1, round(deadline_s * 1000))
    return ours


def _body(
    question: Conversation, sampling: SamplingParams | None, ours: dict[str, Any]
) -> dict[str, Any]:
    messages = (ChatMessage("user", question),) if isinstance(question, str) else question
    return {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "picert": ours,
        **(_sampling(sampling) if sampling is not None else {}),
    }


def _sampling(params: SamplingParams) -> dict[str, Any]:
    fields = {name: getattr(params, name) for name in params.__struct_fields__}
    fields["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
    return {name: value for name, value in fields.items() if value is not None}


# --- the response ---------------------------------------------------------------------------------


class _Reader:
    """Lines of a stream -> events. An event of ours is one `data:` line, so none is held back."""

    def __init__(self) -> None:
        self._finish: dict[str, Any] | None = None  # the chunk that ended the text
        self._is_done = False

    def read(self, line: str) -> Iterator[AnswerEvent]:
        """The event of one line; comments and the framing have none. Raises PicertError."""
        if not line.startswith("data:") or line == "data: [DONE]":
            return
        try:
            event = self._event(json.loads(line[5:]))
        except PicertError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ProtocolError(f"the cloud sent an event that is not ours: {error!r}") from None
        if event is not None:
            yield event

    def require_end(self) -> None:
        """Raises Unavailable if the stream ended before the answer did."""
        if not self._is_done:
            raise Unavailable("the cloud closed the connection before the answer was complete")

    def _event(self, chunk: dict[str, Any]) -> AnswerEvent | None:
        if "error" in chunk:
            raise _named(chunk["error"], 500)
        if not chunk["choices"]:
            if self._finish is None:
                raise ValueError("usage before the end")
            self._is_done = True
            return _done(self._finish, chunk["usage"])
        choice = chunk["choices"][0]
        if choice["finish_reason"] is not None:
            self._finish = chunk
        elif "picert" in chunk:
            return Progress(request_id=chunk["id"], **chunk["picert"])
        elif content := choice["delta"].get("content"):
            return TextDelta(chunk["id"], 0, 0, content)
        return None


def _done(chunk: dict[str, Any], usage: dict[str, Any]) -> Done:
    told = chunk["picert"]
    return Done(
        request_id=chunk["id"],
        finish_reason=chunk["choices"][0]["finish_reason"],
        route=told["route"],
        reasons=tuple(told["reasons"]),
        segments=tuple(SegmentReport(**segment) for segment in told["segments"]),
        usage=Usage(**{name: told[name] for name in Usage.__struct_fields__}),
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        **{f"{name}_s": told[f"{name}_ms"] / 1000 for name in _TIMES},
    )


def _collected(events: Sequence[AnswerEvent]) -> Answer:
    """The answer that a whole stream adds up to; the reader saw to it that it ends with Done."""
    done = events[-1]
    assert isinstance(done, Done)
    return Answer("".join(event.text for event in events if isinstance(event, TextDelta)), done)


def _edges(response: httpx.Response) -> list[str]:
    try:
        body = response.json()
        if response.status_code == 200:
            return [str(name) for name in body["edges"]]
        raise Unavailable(f"the cloud is not ready: {body['reason']}")
    except (ValueError, KeyError, TypeError):
        raise _error(response.status_code, response.content) from None


# --- errors ---------------------------------------------------------------------------------------


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    """What httpx raises on the way to `url`, as picert's errors with what to do."""
    try:
        yield
    except httpx.ConnectError as error:
        raise Unavailable(
            f"no cloud answers at {url} ({error}): start one with `picert-cloud --model MODEL`, "
            "or give another url"
        ) from None
    except httpx.TimeoutException:
        raise DeadlineExceeded(f"the cloud at {url} said nothing for too long: ask again") from None
    except httpx.TransportError as error:
        raise Unavailable(f"the connection to {url} broke ({error}): ask again") from None


def _error(status: int, body: bytes) -> PicertError:
    """The error that a response stands for, whatever its body holds."""
    with suppress(ValueError, KeyError, TypeError):
        return _named(json.loads(body)["error"], status)
    return ProtocolError(
        f"the server answered {status} without picert's error body: is it a picert-cloud?"
    )


def _named(error: dict[str, Any], status: int) -> PicertError:
    message, code = str(error["message"]), error["code"]
    named = error_from_code(code, message) if isinstance(code, str) else PicertError(message)
    if type(named) is PicertError and 400 <= status < 500:
        named = InvalidRequest(message)
    named.param = error["param"]
    return named
