"""`POST /v1/completions`: raw prompts, completed as they stand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.requests import Request as HttpRequest
from fastapi.responses import Response

from picert.cloud import sse
from picert.cloud.asking import completion_requests
from picert.cloud.exchange import (
    Answering,
    Exchange,
    Tokens,
    make_ids,
    note_header_id,
    open_feed,
    read_body,
    respond,
)
from picert.cloud.feed import Whole
from picert.cloud.openai_request import parse_completion, prompts
from picert.cloud.openai_response import TextCompletion, report, text_logprobs, usage
from picert.cloud.openai_schema import CompletionRequest
from picert.cloud.openapi import answers_with, takes
from picert.messages import Done, Progress, TextDelta, TokenLogprob


def add_completions(app: FastAPI, answering: Answering) -> None:
    """Let `app` complete raw prompts."""

    @app.post(
        "/v1/completions",
        responses=answers_with(TextCompletion, streams=True),
        openapi_extra=takes(CompletionRequest),
    )
    async def completions(http: HttpRequest) -> Response:
        """Complete prompts, whole or (`stream`) piece by piece."""
        note_header_id(http)
        asked = parse_completion(await read_body(http, answering.max_body_bytes))
        ids = make_ids(http, asked.request_id)
        model = answering.model(asked.model)
        requests = completion_requests(asked, ids.unique, answering.defaults)
        echoed = _echoes(asked, answering.facts.tokens)
        form = TextForm(
            *(f"cmpl-{ids.unique}", int(time.time()), model, asked, echoed), answering.facts.tokens
        )
        exchange = Exchange(ids, open_feed(answering, requests, ids), form, asked.stream)
        return await respond(http, exchange, answering.keep_alive_s)


def _echoes(asked: CompletionRequest, tokens: Tokens) -> list[str]:
    """What stands before each answer: its prompt, if asked for. Raises InvalidRequest."""
    given = prompts(asked)
    if not asked.echo:
        return [""] * (len(given) * asked.n)
    texts = [
        p if isinstance(p, str) else tokens.decode(p, skip_special_tokens=False) for p in given
    ]
    return [text for text in texts for _ in range(asked.n)]


@dataclass(slots=True)
class TextForm:
    """Plain completions as OpenAI writes them; chunks look like the body."""

    id: str
    created: int
    model: str
    asked: CompletionRequest
    echoed: Sequence[str]  # before each answer
    tokens: Tokens
    _dones: dict[int, Done] = field(default_factory=dict, init=False)
    _offsets: dict[int, int] = field(default_factory=dict, init=False)

    def begin(self) -> bytes:
        """The prompts, if they are to be repeated."""
        return b"".join(self._chunk(i, text) for i, text in enumerate(self.echoed) if text)

    def text(self, index: int, delta: TextDelta) -> bytes:
        """More of an answer."""
        return self._chunk(index, delta.text, delta.logprobs)

    def progress(self, index: int, progress: Progress) -> bytes:
        """A raw prompt has nothing going on behind it."""
        return b""

    def end(self, index: int, done: Done) -> bytes:
        """The last chunk of one answer: no text, the reason, our report."""
        self._dones[index] = done
        told = report([done], self.asked.picert.explain).model_dump()
        return self._chunk(index, "", finish_reason=done.finish_reason, picert=told)

    def close(self) -> bytes:
        """The usage, if asked for, and the end mark."""
        last = b""
        if self._include_usage:
            dones = [self._dones[index] for index in sorted(self._dones)]
            last = sse.event({**self._head(), "choices": [], "usage": self._usage(dones)})
        return last + sse.END

    def whole(self, answers: Sequence[Whole]) -> dict[str, Any]:
        """The body where nothing is streamed."""
        dones = [answer.done for answer in answers if answer.done is not None]
        choices = [
            {
                "index": index,
                "text": self.echoed[index] + answer.text,
                "finish_reason": done.finish_reason,
                "logprobs": self._logprobs(index, answer.logprobs),
            }
            for index, (answer, done) in enumerate(zip(answers, dones, strict=True))
        ]
        told = report(dones, self.asked.picert.explain).model_dump()
        return {**self._head(), "choices": choices, "usage": self._usage(dones), "picert": told}

    def _chunk(
        self,
        index: int,
        text: str,
        tokens: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
        **more: Any,
    ) -> bytes:
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, tokens) if tokens else None,
            "finish_reason": finish_reason,
        }
        empty = {"usage": None} if self._include_usage else {}
        return sse.event({**self._head(), "choices": [choice], **empty, **more})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """Of tokens that follow those of the calls before."""
        if self.asked.logprobs is None:
            return None
        offset = self._offsets.get(index, 0)
        told = text_logprobs(tokens, self.tokens.token_bytes, offset)
        self._offsets[index] = offset + sum(map(len, told["tokens"]))
        return told

    def _usage(self, dones: Sequence[Done]) -> dict[str, Any]:
        return usage(dones, len(prompts(self.asked))).model_dump()

    @property
    def _include_usage(self) -> bool:
        options = self.asked.stream_options
        return options is not None and options.include_usage
