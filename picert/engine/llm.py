"""LLM: an engine for a library's user: names in, finished texts out, blocking, no asyncio.

One thread at a time; a server uses EngineLoop instead.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from picert import hub
from picert.config import EngineConfig, build
from picert.engine.engine import Engine, load_engine
from picert.engine.scoring import Span
from picert.engine.sequence import Output
from picert.errors import InvalidRequest, QueueFull
from picert.messages import ChatMessage, FinishReason, SamplingParams, TokenLogprob

TokenIds = Sequence[int]
Message = ChatMessage | Mapping[str, str]  # a mapping has "role" and "content"


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished text."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None  # None unless params asked for them
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt, found in the prefix cache
    mean_logprob: float  # of the chosen tokens, 0 if there is none


class LLM:
    """A model that answers; closes with `close()` or a `with` block."""

    def __init__(self, model: str, **options: Any) -> None:
        """Load a model by name, path or Hugging Face id; `options` are EngineConfig's other fields.

        Raises ModelNotFound, ModelError, or ConfigError for an unknown or contradictory option.
        """
        self._engine = load_engine(
            build(EngineConfig, {**options, "model": str(hub.find(model))}),
        )
        self._inbox: dict[str, list[Output]] = {}  # of live requests
        self._ids = (f"llm-{n}" for n in itertools.count())

    @property
    def engine(self) -> Engine:
        """For its tokenizer, stats and limits."""
        return self._engine

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[TokenIds],
        params: SamplingParams | None = None,
    ) -> list[Completion]:
        """Complete raw prompts, batched; one Completion each, in order.

        Raises InvalidRequest or ContextLengthExceeded for a prompt that cannot be served; then
        none is.
        """
        many: Sequence[str | TokenIds] = [prompts] if isinstance(prompts, str) else prompts
        queue = deque(enumerate(many))
        live: dict[str, int] = {}
        collected: list[list[Output]] = [[] for _ in many]
        try:
            while queue or live:
                while queue and (request_id := self._admit(queue[0][1], params, bool(live))):
                    live[request_id] = queue.popleft()[0]
                self._step()
                for request_id in [*live]:
                    outputs = self._take(request_id)
                    collected[live[request_id]] += outputs
                    if outputs and outputs[-1].finish_reason is not None:
                        del live[request_id]
        finally:
            for request_id in live:
                self._drop(request_id)
        return [_completion(outputs) for outputs in collected]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | None = None,
    ) -> list[Completion]:
        """Answer one conversation, or several at once; one Completion each, in order."""
        is_one = not messages or isinstance(messages[0], ChatMessage | Mapping)
        chats: Any = [messages] if is_one else messages
        encode = self._engine.tokenizer.encode_chat
        return self.generate([encode([_message(m) for m in chat]) for chat in chats], params)

    def stream(
        self, prompt: str | TokenIds, params: SamplingParams | None = None
    ) -> Iterator[Output]:
        """Outputs of one raw prompt as they come, the last with a `finish_reason`.

        Closing the iterator aborts. Other calls may go on in between: all share the batch.
        """
        request_id = self._add(prompt, params)
        try:
            while True:
                for output in self._take(request_id):
                    yield output
                    if output.finish_reason is not None:
                        return
                self._step()
        finally:
            self._drop(request_id)

    def score(self, prompt_ids: TokenIds, spans: Sequence[Span]) -> tuple[float, ...]:
        """The mean log-probability of each span's tokens, from one reading of the prompt.

        A span is from a token up to, not including, another, and after the first. Raises
        InvalidRequest or ContextLengthExceeded.
        """
        request_id = next(self._ids)
        self._engine.score(request_id, prompt_ids, spans)
        self._inbox[request_id] = []
        try:
            while not (outputs := self._take(request_id)):
                self._step()
        finally:
            self._drop(request_id)
        return outputs[-1].span_logprobs

    def close(self) -> None:
        """Free the model and its cache; whatever still runs is dropped."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, prompt: str | TokenIds, params: SamplingParams | None) -> str:
        request_id = next(self._ids)
        self._engine.add(request_id, prompt, params or SamplingParams())
        self._inbox[request_id] = []
        return request_id

    def _admit(
        self, prompt: str | TokenIds, params: SamplingParams | None, may_wait: bool
    ) -> str | None:
        """The request's id; None where the engine's queue has no room for it yet."""
        try:
            return self._add(prompt, params)
        except QueueFull:
            if not may_wait:  # others than ours fill the queue: nothing here would make room
                raise
            return None

    def _step(self) -> None:
        for output in self._engine.step():
            self._inbox[output.request_id].append(output)

    def _take(self, request_id: str) -> list[Output]:
        """New outputs; the request is forgotten with its last."""
        outputs, self._inbox[request_id] = self._inbox[request_id], []
        if outputs and outputs[-1].finish_reason is not None:
            del self._inbox[request_id]
        return outputs

    def _drop(self, request_id: str) -> None:
        self._engine.abort(request_id)
        self._inbox.pop(request_id, None)


def _message(given: Message) -> ChatMessage:
    if isinstance(given, ChatMessage):
        return given
    try:
        return msgspec.convert(given, ChatMessage)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"a chat message is not one: {error}", param="messages") from None


def _completion(outputs: list[Output]) -> Completion:
    last = outputs[-1]
    assert last.finish_reason is not None
    logprobs = None if last.logprobs is None else [t for o in outputs for t in o.logprobs or ()]
    return Completion(
        text="".join(output.text for output in outputs),
        token_ids=tuple(token for output in outputs for token in output.token_ids),
        logprobs=None if logprobs is None else tuple(logprobs),
        finish_reason=last.finish_reason,
        num_prompt_tokens=last.num_prompt_tokens,
        num_cached_tokens=last.num_cached_tokens,
        mean_logprob=last.sum_logprob / max(1, last.num_completion_tokens),
    )
