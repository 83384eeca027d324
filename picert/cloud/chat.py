"""`POST /v1/chat/completions`: answers to a conversation, whole or piece by piece."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.requests import Request as HttpRequest
from fastapi.responses import Response

from picert.cloud import sse
from picert.cloud.asking import call_reader, chat_requests
from picert.cloud.exchange import (
    Answering,
    Exchange,
    make_ids,
    note_header_id,
    open_feed,
    read_body,
    respond,
)
from picert.cloud.feed import Whole
from picert.cloud.openai_request import parse_chat
from picert.cloud.openai_response import (
    ChatCompletion,
    TokenBytes,
    chat_logprobs,
    report,
    tool_call,
    usage,
)
from picert.cloud.openai_schema import ChatRequest
from picert.cloud.openapi import answers_with, takes
from picert.cloud.tool_calls import CallReader, Piece
from picert.messages import Done, Progress, TextDelta, TokenLogprob, ToolCall


def add_chat(app: FastAPI, answering: Answering) -> None:
    """Let `app` answer chat requests."""

    @app.post(
        "/v1/chat/completions",
        responses=answers_with(ChatCompletion, streams=True),
        openapi_extra=takes(ChatRequest),
    )
    async def chat_completions(http: HttpRequest) -> Response:
        """Answer a conversation, whole or (`stream`) piece by piece."""
        note_header_id(http)
        chat = parse_chat(await read_body(http, answering.max_body_bytes))
        ids = make_ids(http, chat.request_id)
        model = answering.model(chat.model)
        requests = chat_requests(chat, ids.unique, answering.defaults)
        form = ChatForm(
            *(f"chatcmpl-{ids.unique}", int(time.time()), model),
            token_bytes=answering.facts.tokens.token_bytes,
            asked=chat,
            readers=[call_reader(chat, answering.defaults) for _ in requests],
        )
        exchange = Exchange(ids, open_feed(answering, requests, ids), form, chat.stream)
        return await respond(http, exchange, answering.keep_alive_s)


@dataclass(slots=True)
class ChatForm:
    """Chat answers as OpenAI writes them; `id`, `created`, `model` are the same in all chunks."""

    id: str
    created: int
    model: str
    token_bytes: TokenBytes
    asked: ChatRequest
    readers: Sequence[CallReader | None]  # one for each answer, where it may call tools
    _dones: list[Done] = field(default_factory=list, init=False)

    def begin(self) -> bytes:
        """Whose turn it is."""
        turn = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, turn) for index in range(len(self.readers)))

    def text(self, index: int, delta: TextDelta) -> bytes:
        """More of an answer: text, calls, or nothing to show yet for what was drawn."""
        reader = self.readers[index]
        if reader is None:
            pieces: list[Piece] = [delta.text] if delta.text else []
        else:
            pieces = reader.push(delta.text)
        return self._pieces(index, pieces, delta.logprobs)

    def progress(self, index: int, progress: Progress) -> bytes:
        """What goes on behind the answer, if asked for: an empty delta and a `picert` object."""
        if not self.asked.picert.progress:
            return b""
        told: dict[str, Any] = {
            "stage": progress.stage,
            "done": progress.done,
            "total": progress.total,
        }
        optional = {"index": progress.index, "edge": progress.edge, "text": progress.text or None}
        told.update({key: value for key, value in optional.items() if value is not None})
        return self._chunk(index, {}, picert=told)

    def end(self, index: int, done: Done) -> bytes:
        """The last chunk of one answer: no content, the reason, our report."""
        self._dones.append(done)
        reader = self.readers[index]
        rest = b"" if reader is None else self._pieces(index, reader.finish(), ())
        told = report([done], self.asked.picert.explain).model_dump()
        reason = _reason(done, reader)
        return rest + self._chunk(index, {}, finish_reason=reason, picert=told)

    def close(self) -> bytes:
        """The usage, if asked for, and the end mark."""
        last = b""
        if self._include_usage:
            total = usage(self._dones).model_dump()
            last = sse.event({**self._head(), "choices": [], "usage": total})
        return last + sse.END

    def whole(self, answers: Sequence[Whole]) -> dict[str, Any]:
        """The body where nothing is streamed."""
        dones = [answer.done for answer in answers if answer.done is not None]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._choice(i, answer) for i, answer in enumerate(answers)],
            "usage": usage(dones).model_dump(),
            "picert": report(dones, self.asked.picert.explain).model_dump(),
        }

    def _choice(self, index: int, answer: Whole) -> dict[str, Any]:
        reader = self.readers[index]
        pieces: list[Piece] = [answer.text]
        if reader is not None:
            pieces = [*reader.push(answer.text), *reader.finish()]
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = [_named(piece) for piece in pieces if isinstance(piece, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["content"] = text or None
            message["tool_calls"] = [tool_call(call) for call in calls]
        assert answer.done is not None
        return {
            "index": index,
            "message": message,
            "finish_reason": _reason(answer.done, reader),
            "logprobs": self._logprobs(answer.logprobs),
        }

    def _pieces(self, index: int, pieces: Sequence[Piece], tokens: Sequence[TokenLogprob]) -> bytes:
        """Chunks of text and calls; the tokens go with the first."""
        chunks = []
        reader = self.readers[index]
        num_new = sum(isinstance(piece, ToolCall) for piece in pieces)
        number = reader.num_calls - num_new if reader is not None else 0
        for piece in pieces:
            if isinstance(piece, str):
                chunks.append(self._chunk(index, {"content": piece}, tokens))
            else:
                call = {"index": number, **tool_call(_named(piece))}
                chunks.append(self._chunk(index, {"tool_calls": [call]}, tokens))
                number += 1
            tokens = ()
        if tokens:
            chunks.append(self._chunk(index, {"content": ""}, tokens))
        return b"".join(chunks)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        tokens: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
        **more: Any,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish_reason,
        }
        empty = {"usage": None} if self._include_usage else {}
        return sse.event({**self._head(), "choices": [choice], **empty, **more})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self.token_bytes) if self.asked.logprobs else None

    @property
    def _include_usage(self) -> bool:
        options = self.asked.stream_options
        return options is not None and options.include_usage


def _reason(done: Done, reader: CallReader | None) -> str:
    called = reader is not None and reader.num_calls > 0
    return "tool_calls" if called and done.finish_reason == "stop" else done.finish_reason


def _named(call: ToolCall) -> ToolCall:
    """A call with an id, which the tool's turn will repeat."""
    return msgspec.structs.replace(call, id=f"call_{secrets.token_hex(12)}")
