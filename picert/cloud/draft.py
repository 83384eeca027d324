"""Draft: the state of one question from acceptance to its terminal event, and the tasks that work
on it.

Producers (a direct answer, a sketch, the expansions) write to the draft; the one consumer reads
`events`. Everything a question holds hangs here, so that closing the draft frees it. Text waiting
in the outbox is bounded by the request's token budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from picert.engine.sequence import Output
from picert.errors import DeadlineExceeded
from picert.messages import (
    Done,
    Expansion,
    Progress,
    Request,
    SegmentReport,
    TakenRoute,
    TextDelta,
    Usage,
)
from picert.pice.shaping import whole_sentences

Clock = Callable[[], float]
Stage = Literal["plan", "sketch", "expand", "segment_done", "repair"]


class Counter(Protocol):
    """What the draft needs of the cloud's tokenizer: the measure of the visible answer."""

    eos_token_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of token ids."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to an answer, `at_s` after its acceptance."""

    at_s: float
    stage: Stage
    index: int | None
    edge: str | None


class Draft:
    """One answer in the making. Single consumer, many producers, one event loop."""

    def __init__(self, request: Request, tokenizer: Counter, clock: Clock) -> None:
        self.request = request
        self.route: TakenRoute = "direct"
        self.reasons: list[str] = []
        self.reports: dict[int, SegmentReport] = {}
        self.timeline: list[Moment] = []
        self.finish_reason: Literal["stop", "length"] = "stop"
        self.outcome = "cancelled"  # until it ended otherwise: a finish reason, or an error's code
        self.prompt_ids: list[int] | None = None  # of the question asked directly, once planned
        self.expected_tokens = 0  # of the answer, as planned
        self.promised_jobs = 0  # of edges, that its sketch is expected to give yet
        self.candidates: tuple[str, ...] = ()  # what the plan was chosen from
        self.queue_s = 0.0
        self.sketch_s = 0.0
        self.sketch_tokens = 0  # written so far
        self._usage = {name: 0 for name in Usage.__struct_fields__}
        self._tokenizer = tokenizer
        self._clock = clock
        self._began = clock()
        self._first_text_s: float | None = None
        self._text: list[str] = []
        self._num_tokens = 0  # of _text; an upper bound until it is settled
        self._num_drawn: int | None = None  # tokens of an answer that one sequence wrote whole
        self._outbox: asyncio.Queue[TextDelta | Progress | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the question; 0 before it was planned."""
        return len(self.prompt_ids or ())

    # --- time ---

    @property
    def first_text_s(self) -> float | None:
        """When the first text was shown, in seconds since acceptance; None: not yet."""
        return self._first_text_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since acceptance."""
        return self._clock() - self._began

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline. Raises DeadlineExceeded when there are none."""
        left = self.request.deadline_s - self.elapsed_s
        if left <= 0:
            raise DeadlineExceeded(
                f"the answer was not complete after {self.request.deadline_s:g} s: "
                "allow more time (deadline_ms) or ask for fewer tokens"
            )
        return left

    # --- what producers do ---

    @property
    def has_begun(self) -> bool:
        """Work was done for it: text is shown, or a sketch is written."""
        return bool(self._text) or self._usage["cloud_completion_tokens"] > 0

    @property
    def is_full(self) -> bool:
        """The user's max_tokens is reached: nothing more will be shown."""
        return self.finish_reason == "length"

    def say(self, text: str, index: int = 0) -> None:
        """Show more of the answer, cut at the request's max_tokens."""
        if not text or self.is_full:
            return
        text = self._fit(text)
        if text:
            self._text.append(text)
            self._outbox.put_nowait(TextDelta(self.request.request_id, index, 0, text))

    def pass_on(self, output: Output) -> None:
        """Show what a sequence of the cloud's engine adds, where it writes the whole answer: its
        tokens are counted as they were drawn, and the engine keeps to max_tokens.
        """
        tokens, logprobs = output.token_ids, output.logprobs or ()
        is_end = output.finish_reason == "stop" and self._is_end(tokens[-1:])
        self._num_drawn = output.num_completion_tokens - is_end
        shown = logprobs[:-1] if is_end else logprobs
        if output.text or shown:
            self._text.append(output.text)
            self._outbox.put_nowait(
                TextDelta(self.request.request_id, 0, 0, output.text, tuple(shown))
            )
        if output.finish_reason == "length":
            self.finish_reason = "length"

    def note(self, stage: Stage, **fields: Any) -> None:
        """Tell a caller who asked for progress what is going on, and keep when it was."""
        if stage != "expand":  # a moment for each piece of text would be too many
            index, edge = fields.get("index"), fields.get("edge")
            self.timeline.append(Moment(self.elapsed_s, stage, index, edge))
        if self.request.progress:
            self._outbox.put_nowait(
                Progress(request_id=self.request.request_id, stage=stage, **fields)
            )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a producer; its failure ends the answer with its error."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def count_cloud(self, output: Output) -> None:
        """Account for one finished sequence of the cloud's engine."""
        self._usage["cloud_prompt_tokens"] += output.num_prompt_tokens
        self._usage["cloud_cached_tokens"] += output.num_cached_tokens
        self._usage["cloud_completion_tokens"] += output.num_completion_tokens

    def count_edge(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Account for what edges tell that they have read and drawn, used or not."""
        self._usage["edge_prompt_tokens"] += prompt_tokens
        self._usage["edge_completion_tokens"] += completion_tokens

    def finish_whole(self, expansion: Expansion, edge: str, attempts: int) -> None:
        """An edge has answered the whole question; its text was shown as it came."""
        if expansion.finish_reason == "length":
            self.finish_reason = "length"
        self.reports[0] = SegmentReport(
            text="",
            expansion=expansion.text,
            edge=edge,
            model=expansion.model,
            tokens=expansion.completion_tokens,
            attempts=attempts,
        )

    # --- what the consumer does ---

    async def events(self) -> AsyncIterator[TextDelta | Progress]:
        """What there is to tell, until every producer has ended.

        Raises a producer's error, or DeadlineExceeded.
        """
        self._set_alarm()
        while self._tasks or not self._outbox.empty():
            event = await self._outbox.get()
            if event is not None:
                if isinstance(event, TextDelta) and self._first_text_s is None:
                    self._first_text_s = self.elapsed_s
                yield event
            elif self._error is not None:
                raise self._error
            else:
                self._set_alarm()

    def done(self) -> Done:
        """The terminal event, once `events` has ended."""
        return Done(
            request_id=self.request.request_id,
            finish_reason=self.finish_reason,
            route=self.route,
            reasons=tuple(self.reasons),
            candidates=self.candidates,
            segments=tuple(self.reports[index] for index in sorted(self.reports)),
            usage=Usage(**self._usage),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self._completion_tokens(),
            queue_s=self.queue_s,
            sketch_s=self.sketch_s,
            first_text_s=self._first_text_s or 0.0,
            total_s=self.elapsed_s,
        )

    def __str__(self) -> str:
        """The one line that a request leaves in the log: no text of it, only what it took."""
        return (
            f"{self.route} in {self.elapsed_s:.2f} s, first text after "
            f"{self._first_text_s or 0.0:.2f} s, {len(self.reports)} segments, "
            f"cloud {self._usage['cloud_completion_tokens']} and "
            f"edges {self._usage['edge_completion_tokens']} tokens"
        )

    async def close(self) -> None:
        """Cancel every producer and wait until each has freed what it held."""
        self._end_alarm()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _set_alarm(self) -> None:
        """Wake the consumer at the deadline. Raises DeadlineExceeded if that is over."""
        left = self.remaining_s
        self._end_alarm()
        wake = self._outbox.put_nowait
        self._alarm = asyncio.get_running_loop().call_later(left, wake, None)

    def _end_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and self._error is None:
            self._error = task.exception()
        self._outbox.put_nowait(None)  # wake the consumer

    def _is_end(self, token_ids: tuple[int, ...]) -> bool:
        ends = (*self._tokenizer.eos_token_ids, *self.request.sampling.stop_token_ids)
        return any(token_id in ends for token_id in token_ids)

    def _completion_tokens(self) -> int:
        if self._num_drawn is not None:
            return self._num_drawn
        return len(self._tokenizer.encode("".join(self._text)))

    def _fit(self, text: str) -> str:
        """`text` or the head of it that max_tokens leaves room for; of points, whole sentences.

        Pieces encoded one by one give at least as many tokens as the whole, so the exact count is
        needed only when their sum passes the limit.
        """
        limit = self.request.sampling.max_tokens
        self._num_tokens += len(self._tokenizer.encode(text))
        if self._num_tokens <= limit:
            return text
        shown = "".join(self._text)
        ids = self._tokenizer.encode(shown + text)
        self._num_tokens = len(ids)
        if len(ids) <= limit:
            return text
        self.finish_reason = "length"
        for task in self._tasks:  # the rest would never be shown
            task.cancel()
        kept = self._tokenizer.decode(ids[:limit]).removesuffix("\ufffd")[len(shown) :]
        return whole_sentences(kept) if self.route == "sketch" else kept
