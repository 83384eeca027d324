"""CloudWriter: the cloud model's own text for one draft, and what it thinks of others' texts,
accounted for and timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib import import_module
from typing import Protocol

from picert.cloud.draft import Draft
from picert.engine.sampler import TokenMask
from picert.engine.sequence import Output, Terms
from picert.engine.streaming import StreamingLoop
from picert.errors import InvalidRequest
from picert.messages import Grammar
from picert.pice.profile import SpeedProfile
from picert.pice.prompts import Prompt


class Compiler(Protocol):
    """picert.engine.grammar's, which loads with the first text whose form is prescribed."""

    def compile(self, grammar: Grammar) -> TokenMask:
        """What a text may be. Raises InvalidRequest."""
        ...


class CloudWriter:
    """Streams of the cloud's engine, with the draft's deadline; what they cost goes to the draft
    and the profile.
    """

    def __init__(
        self,
        loop: StreamingLoop,
        clock: Callable[[], float] = time.monotonic,
        queue_timeout_s: float | None = None,
    ) -> None:
        self.model = loop.engine.identity.name
        self.tokenizer = loop.engine.tokenizer
        self.speed = SpeedProfile()
        self.slots = loop.engine.config.max_num_seqs
        self.num_running = 0
        self._left: dict[str, float] = {}  # tokens that each open text is expected to get yet
        self._loop = loop
        self._clock = clock
        self._queue_timeout_s = queue_timeout_s
        self._compiler: Compiler | None = None

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt as this model reads it.

        Raises InvalidRequest where its template refuses the messages.
        """
        if isinstance(prompt.raw, str):
            return self.tokenizer.encode_prompt(prompt.raw)
        if prompt.raw is not None:
            return [*prompt.raw]
        return self.tokenizer.encode_chat(
            prompt.messages,
            add_generation_prompt=prompt.add_generation_prompt,
            prefill=prompt.prefill,
            tools=prompt.tools,
        )

    async def write(
        self, draft: Draft, part: str, prompt: Prompt, ids: list[int] | None = None
    ) -> AsyncGenerator[Output, None]:
        """Outputs of one text; `part` names it within its request, `ids` is the prompt encoded, by
        whoever has it already.

        Closing the iterator aborts the sequence. Raises InvalidRequest for a prompt or a grammar
        that cannot be served.
        """
        ids = self.encode(prompt) if ids is None else ids
        mask = None if prompt.grammar is None else await self._mask(prompt.grammar)
        name = f"{draft.request.request_id}/{part}"
        terms = self._terms(draft)
        stream = self._loop.stream(name, ids, prompt.sampling, terms=terms, mask=mask)
        expected = min(prompt.sampling.max_tokens, draft.expected_tokens)
        began, last = self._clock(), None
        self.num_running += 1
        self._left[name] = expected
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    if last is None:
                        draft.queue_s += output.queue_s
                        self._observe_first(output, self._clock() - began)
                        began = self._clock()
                    last = output
                    self._left[name] = max(0, expected - output.num_completion_tokens)
                    yield output
        except InvalidRequest as error:
            if error.param == "prompt" and prompt.raw is None:
                error.param = "messages"  # as the request calls it
            raise
        finally:
            self.num_running -= 1
            del self._left[name]
            if last is not None:
                draft.count_cloud(last)
                seconds, batch = self._clock() - began, self.num_running + 1
                self.speed.observe_decode(last.num_completion_tokens - 1, seconds, batch)

    async def score(
        self, draft: Draft, part: str, prompt: Prompt, text: str, within_s: float
    ) -> float:
        """Mean log-probability of `text`, had this model written it to `prompt`: one reading, after
        all that is written for others. Cancelling the caller aborts it.

        Raises DeadlineExceeded when the time is over, and what the engine raises.
        """
        head = self.encode(prompt)
        ids = self.encode(replace(prompt, prefill=f"{prompt.prefill} {text.strip()}"))
        begin = _num_shared(head, ids)
        name = f"{draft.request.request_id}/{part}"
        terms = Terms(min(within_s, draft.remaining_s), priority=draft.request.priority + 1)
        self.num_running += 1
        self._left[name] = self._as_written(len(ids))
        try:
            output = await self._loop.score(name, ids, [(begin, len(ids))], terms=terms)
        finally:
            self.num_running -= 1
            del self._left[name]
        draft.count_cloud(output)
        return output.span_logprobs[0]

    async def read(self, prompt: Prompt) -> None:
        """Let the engine read a prompt for the sake of its prefix cache alone."""
        ids = self.encode(prompt)
        async with aclosing(self._loop.stream("ahead", ids, prompt.sampling)) as outputs:
            async for _ in outputs:
                pass

    def _terms(self, draft: Draft) -> Terms:
        """A question waits its turn; what goes on with an answer goes before it."""
        begun = draft.has_begun
        return Terms(
            deadline_s=draft.remaining_s,
            queue_timeout_s=None if begun else self._queue_timeout_s,
            priority=draft.request.priority - begun,
            is_owed=begun,
        )

    async def _mask(self, grammar: Grammar) -> TokenMask:
        """What the text may be; in a thread, because the first one indexes the vocabulary."""
        if self._compiler is None:
            module = import_module("picert.engine.grammar")
            self._compiler = module.GrammarCompiler(self.tokenizer)
        return await asyncio.to_thread(self._compiler.compile, grammar)

    @property
    def backlog_s(self) -> float:
        """Seconds of a full engine that open texts are expected to take yet."""
        return self._token_s * sum(self._left.values())

    @property
    def _token_s(self) -> float:
        """Of a full engine, that a token takes."""
        return self.speed.decode_seconds(1, self.slots) / self.slots

    def _as_written(self, num_read: int) -> float:
        """Tokens that could be written in the time in which so many are read."""
        return self.speed.prefill_seconds(num_read) / max(self._token_s, 1e-9)

    @property
    def wait_s(self) -> float:
        """Until a text that is begun now would get its first step: the time in which as many open
        ones end as there are too many."""
        too_many = self.num_running + 1 - self.slots
        return max(0, too_many) * self.backlog_s / max(1, self.num_running)

    def _observe_first(self, output: Output, seconds: float) -> None:
        """Alone: beside others it would tell how busy the cloud is, not how fast it reads."""
        if self.num_running > 1:
            return
        num_read = output.num_prompt_tokens - output.num_cached_tokens
        self.speed.observe_prefill(num_read, seconds - output.queue_s)


def _num_shared(head: Sequence[int], ids: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(head, ids, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(head), len(ids)))
