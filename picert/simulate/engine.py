"""SimulatedLoop: what an EngineLoop is to cloud and edges, without a model: a batch of texts whose
steps take as long as a profile says, and what is written is its author's affair.

It batches as the real engine does: texts wait by priority, prompts are read in pieces beside what
is written, one step's tokens are bounded, prefixes are read once, whoever is added or aborted takes
effect with the next step. Steps in which nothing is told to anybody are taken together.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from picert.engine.sampler import TokenMask
from picert.engine.scoring import Span
from picert.engine.sequence import NO_TERMS, Output, Terms
from picert.errors import DeadlineExceeded, PicertError, QueueFull, QueueTimeout
from picert.messages import FinishReason, SamplingParams
from picert.pice.profile import SpeedProfile
from picert.simulate.host import Host, Run
from picert.simulate.prefixes import Prefixes
from picert.simulate.tokens import WordTokenizer


@dataclass(frozen=True, slots=True)
class Identity:
    """Which model it stands for."""

    name: str


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine takes on; the names are those of EngineConfig."""

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    max_num_queued_reqs: int = 256
    kv_tokens: int = 65536


@dataclass(frozen=True, slots=True)
class Telling:
    """What it costs the process that others hear of each token, and how often they do."""

    step_s: float = 0.0  # beside the step itself
    token_s: float = 0.0
    tokens_per_event: int = 1  # told at once, but for the first, and ends of lines and sentences


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """The part of an engine that others may ask."""

    identity: Identity
    tokenizer: WordTokenizer
    config: EngineLimits


@dataclass(frozen=True, slots=True)
class Script:
    """One text before it is written: each token's text, the end token's "" among them."""

    tokens: Sequence[str]
    finish_reason: FinishReason
    mean_logprob: float = -1.0


class Author(Protocol):
    """Who knows what a model will write."""

    def script(self, request_id: str, params: SamplingParams) -> Script:
        """The text of a request, at most `params.max_tokens` long."""


@dataclass(eq=False, slots=True)
class _Text:
    """One request: until it is started it waits."""

    request_id: str
    prompt_ids: Sequence[int]
    script: Script
    arrived_at: float
    spans: Sequence[Span] = ()  # where there are any, it is only read, and they are scored
    items: asyncio.Queue[Output | PicertError] = field(default_factory=asyncio.Queue)
    started_at: float | None = None
    num_cached: int = 0
    num_to_read: int = 0
    num_written: int = 0
    num_told: int = 0
    tell_at: int = 1  # tokens written when there is something to tell
    has_ended: bool = False

    @property
    def context(self) -> int:
        """Tokens that it has in the cache."""
        return len(self.prompt_ids) - self.num_to_read + self.num_written

    @property
    def most_tokens(self) -> int:
        """That it will have there."""
        return len(self.prompt_ids) + len(self.script.tokens)


@dataclass(slots=True)
class _Step:
    """What runs now: `count` equal steps that only decode, or one that reads too."""

    run: Run
    writers: list[_Text]
    readers: list[tuple[_Text, int]]  # with the tokens that they read
    count: int
    each_s: float


class SimulatedLoop:
    """One engine on a host; everything on one event loop."""

    def __init__(
        self,
        engine: SimulatedEngine,
        speed: SpeedProfile,
        host: Host,
        author: Author,
        telling: Telling,
    ) -> None:
        self.engine = engine
        self._speed = speed
        self._host = host
        self._author = author
        self._telling = telling
        self._loop = asyncio.get_running_loop()
        self._prefixes = Prefixes(engine.config.kv_tokens)
        self._waiting: list[tuple[int, int, _Text]] = []  # heap by priority and arrival
        self._numbers = itertools.count()
        self._running: list[_Text] = []
        self._kv_used = 0
        self._step: _Step | None = None

    @property
    def num_running(self) -> int:
        """Texts that have begun."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Texts that have not."""
        return sum(not text.has_ended for _, _, text in self._waiting)

    def stream(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        terms: Terms = NO_TERMS,
        mask: TokenMask | None = None,
    ) -> AsyncGenerator[Output, None]:
        """As EngineLoop.stream; a `mask` cannot be obeyed and is not asked for."""
        script = self._author.script(request_id, params)
        return self._outputs(_Text(request_id, prompt_ids, script, self._loop.time()), terms)

    async def score(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        spans: Sequence[Span],
        *,
        terms: Terms = NO_TERMS,
    ) -> Output:
        """As EngineLoop.score. No text is likelier than another: what is simulated is what reading
        takes, not what it tells."""
        text = _Text(request_id, prompt_ids, Script(("",), "stop"), self._loop.time(), spans)
        async with aclosing(self._outputs(text, terms)) as outputs:
            return await anext(outputs)

    async def _outputs(self, text: _Text, terms: Terms) -> AsyncGenerator[Output, None]:
        """See `stream`."""
        limits = self.engine.config
        num_held = len(self._running) + len(self._waiting)
        if num_held >= limits.max_num_seqs + limits.max_num_queued_reqs and not terms.is_owed:
            raise QueueFull(f"{num_held} requests are running or queued: try again later")
        heapq.heappush(self._waiting, (terms.priority, next(self._numbers), text))
        self._wake()
        timers = [
            self._loop.call_later(max(0.0, seconds), expire, text)
            for seconds, expire in (
                (terms.deadline_s, _expire),
                (terms.queue_timeout_s, _expire_waiting),
            )
            if seconds is not None
        ]
        try:
            while True:
                item = await text.items.get()
                if isinstance(item, PicertError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            for timer in timers:
                timer.cancel()
            if not text.has_ended:
                text.has_ended = True
                self._wake()

    def crash(self) -> None:
        """The process is gone: what it held is lost. Whoever reads its streams must leave them."""
        if self._step is not None:
            self._host.stop(self._step.run)
            self._step = None
        for text in (*self._running, *(text for _, _, text in self._waiting)):
            text.has_ended = True
        self._running, self._waiting, self._kv_used = [], [], 0
        self._prefixes.clear()

    def self_check(self) -> None:
        """Raises AssertionError where what is held differs from what is counted."""
        assert self._kv_used == sum(text.most_tokens for text in self._running)
        assert self._step is not None or not self._running

    # --- steps ---

    def _wake(self) -> None:
        """Something changed: it counts from the next step on, so steps taken together end now."""
        step = self._step
        if step is None:
            self._begin_step()
        elif step.count > 1:
            done = math.ceil(self._host.worked_s(step.run) / step.each_s - 1e-9)
            if done < step.count:
                step.count = max(1, done)
                self._host.shorten(step.run, step.count * step.each_s)

    def _begin_step(self) -> None:
        self._drop_ended()
        self._admit()
        if not self._running:
            return
        writers = [text for text in self._running if not text.num_to_read]
        readers = self._readers(len(writers))
        count = 1 if readers else min(text.tell_at - text.num_written for text in writers)
        each_s = self._seconds(writers, readers, count)
        run = self._host.begin(count * each_s, self._end_step)
        self._step = _Step(run, writers, readers, count, each_s)

    def _drop_ended(self) -> None:
        """Forget what was aborted or expired."""
        ended = [text for text in self._running if text.has_ended]
        if ended:
            self._kv_used -= sum(text.most_tokens for text in ended)
            self._running = [text for text in self._running if not text.has_ended]

    def _admit(self) -> None:
        """Give places to those who wait, in order, as far as there are places and memory."""
        limits = self.engine.config
        while self._waiting and len(self._running) < limits.max_num_seqs:
            text = self._waiting[0][2]
            is_too_much = self._kv_used + text.most_tokens > limits.kv_tokens
            if not text.has_ended and is_too_much and self._running:
                return
            heapq.heappop(self._waiting)
            if text.has_ended:
                continue
            text.started_at = self._loop.time()
            text.num_cached = self._num_cached(text)
            text.num_to_read = len(text.prompt_ids) - text.num_cached
            self._prefixes.add(text.prompt_ids)  # prompts of one step share what one of them reads
            self._kv_used += text.most_tokens
            self._running.append(text)

    def _num_cached(self, text: _Text) -> int:
        """What need not be read; nothing is known of what is to be scored."""
        known = self._prefixes.num_known(text.prompt_ids)
        return min([known, *(begin - 1 for begin, _ in text.spans)])

    def _readers(self, num_writers: int) -> list[tuple[_Text, int]]:
        """Whose prompts are read in this step, and how much of each."""
        budget = self.engine.config.max_num_batched_tokens - num_writers
        readers = []
        for text in self._running:
            if text.num_to_read and budget > 0:
                tokens = min(budget, text.num_to_read)
                readers.append((text, tokens))
                budget -= tokens
        return readers

    def _seconds(
        self, writers: Sequence[_Text], readers: Sequence[tuple[_Text, int]], count: int
    ) -> float:
        """Of one step; of `count` of them, in the mean."""
        telling = self._telling
        num_told = len(writers) + sum(tokens == text.num_to_read for text, tokens in readers)
        seconds = telling.step_s + telling.token_s * num_told
        if writers:
            context = sum(text.context for text in writers) / len(writers) + count / 2
            seconds += self._speed.decode_seconds(1, len(writers), round(context))
        return seconds + sum(self._reading_s(text.context, tokens) for text, tokens in readers)

    def _reading_s(self, context: int, tokens: int) -> float:
        """To read `tokens` after `context` of them: what longer prompts take beyond shorter ones,
        and no less than from the start."""
        whole = self._speed.prefill_seconds(context + tokens)
        return max(
            self._speed.prefill_seconds(tokens), whole - self._speed.prefill_seconds(context)
        )

    def _end_step(self) -> None:
        step, self._step = self._step, None
        assert step is not None
        for text, tokens in step.readers:
            text.num_to_read -= tokens
            if not text.num_to_read:
                self._write(text, 1)
        for text in step.writers:
            self._write(text, step.count)
        self._begin_step()  # who hears of this one can add to the one after the next

    # --- texts ---

    def _write(self, text: _Text, count: int) -> None:
        text.num_written += count
        if text.has_ended or text.num_written < text.tell_at:
            return
        tokens, script = text.script.tokens, text.script
        is_over = text.num_written >= len(tokens)
        told = tokens[text.num_told : text.num_written]
        text.num_told = text.num_written
        text.tell_at = self._next_stop(tokens, text.num_written)
        text.has_ended = is_over
        is_ended_by_itself = is_over and script.finish_reason == "stop"
        output = Output(
            request_id=text.request_id,
            text="".join(told),
            token_ids=(0,) if is_ended_by_itself else (),
            logprobs=None,
            finish_reason=script.finish_reason if is_over else None,
            num_prompt_tokens=len(text.prompt_ids),
            num_cached_tokens=text.num_cached,
            num_completion_tokens=0 if text.spans else text.num_written,
            sum_logprob=0.0 if text.spans else script.mean_logprob * text.num_written,
            queue_s=(text.started_at or 0.0) - text.arrived_at,
            span_logprobs=(script.mean_logprob,) * len(text.spans),
        )
        text.items.put_nowait(output)

    def _next_stop(self, tokens: Sequence[str], written: int) -> int:
        """The number of tokens at which there is something to tell again."""
        last = min(len(tokens), written + self._telling.tokens_per_event)
        for number in range(written + 1, last):
            ended = tokens[number - 1]
            if ended == "\n" or (number > 1 and tokens[number - 2] == "."):
                return number
        return last


def _expire(text: _Text) -> None:
    _fail(text, DeadlineExceeded("no complete answer in time: allow more time"))


def _expire_waiting(text: _Text) -> None:
    if text.started_at is None:
        _fail(text, QueueTimeout("no turn in time: ask again later"))


def _fail(text: _Text, error: PicertError) -> None:
    if not text.has_ended:
        text.has_ended = True
        text.items.put_nowait(error)
