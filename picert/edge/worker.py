"""EdgeWorker: jobs in, expansions out. One task per segment; those of one job run one after the
other, in one place of the engine's batch, those of different jobs side by side.

The worker owns the table of running tasks and nothing else: sequences and KV blocks belong to the
engine loop, which frees them when a task's stream is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from picert.engine.sequence import Output, Terms
from picert.engine.streaming import StreamingLoop
from picert.errors import EdgeLost, ModelNotFound, PicertError
from picert.log import get_logger
from picert.messages import (
    AnswerJob,
    Cancel,
    ExpandJob,
    Expansion,
    Failure,
    SamplingParams,
    Segment,
    TextDelta,
    ToCloud,
)
from picert.pice.prompts import PromptBook

logger = get_logger(__name__)
Clock = Callable[[], float]
TaskKey = tuple[str, int, int]  # request_id, segment index, attempt


class Outbox(Protocol):
    """Where results go: the edge's end of the link."""

    async def send(self, message: ToCloud) -> None:
        """Queue one message for the cloud."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """One text to write, whatever kind of job asked for it."""

    request_id: str
    index: int
    attempt: int
    loop: StreamingLoop
    model: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams
    deadline_s: float


class EdgeWorker:
    """Runs the jobs of one edge over its models; `loops` maps a model's name to its engine, the
    default first. Its owner may change it while none of these models is written with.
    """

    def __init__(
        self,
        loops: Mapping[str, StreamingLoop],
        prompts: PromptBook,
        outbox: Outbox,
        clock: Clock = time.monotonic,
    ) -> None:
        self._loops = loops
        self._prompts = prompts
        self._outbox = outbox
        self._clock = clock
        self._tasks: dict[TaskKey, asyncio.Task[None]] = {}

    @property
    def num_running(self) -> int:
        """Texts that are being written."""
        return len(self._tasks)

    async def take(self, message: ExpandJob | AnswerJob | Cancel) -> None:
        """Start a job or cancel one; never waits for a text to be written."""
        if isinstance(message, Cancel):
            await self._cancel(message)
        elif isinstance(message, ExpandJob):
            before: asyncio.Task[None] | None = None
            for segment in message.segments:
                before = await self._start(message, segment, before)
        else:
            await self._start(message, Segment(0, ""), None)

    async def wait_idle(self, timeout_s: float) -> bool:
        """Until no text is being written; False after `timeout_s`."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_s)
        return not self._tasks

    async def drain(self, timeout_s: float) -> None:
        """Let running texts finish for at most `timeout_s`, then cancel the rest."""
        await self.wait_idle(timeout_s)
        await self._end(list(self._tasks))

    async def _start(
        self, job: ExpandJob | AnswerJob, segment: Segment, before: asyncio.Task[None] | None
    ) -> asyncio.Task[None] | None:
        """Begin to write a segment, or to wait for the one `before` it; returns whom the next shall
        wait for."""
        key = (job.request_id, segment.index, job.attempt)
        await self._end([key])  # a job that comes twice is begun anew
        try:
            work = self._prepare(job, segment)
        except PicertError as error:
            await self._fail(job, segment.index, error)
            return before
        return self._spawn(key, self._write(work, before))

    def _prepare(self, job: ExpandJob | AnswerJob, segment: Segment) -> Work:
        model = job.model or next(iter(self._loops), "")
        loop = self._loops.get(model)
        if loop is None:
            held = ", ".join(self._loops) or "none: it loads another one"
            raise ModelNotFound(f"this edge has no model {model!r}; it has {held}")
        tokenizer = loop.engine.tokenizer
        if isinstance(job, ExpandJob):
            prompt = self._prompts.expand(job, segment)
            ids = tokenizer.encode_chat(prompt.messages, prefill=prompt.prefill)
            sampling = prompt.sampling
        else:
            ids = tokenizer.encode_chat(job.messages, prefill=job.written)
            sampling = job.sampling
        return Work(
            request_id=job.request_id,
            index=segment.index,
            attempt=job.attempt,
            loop=loop,
            model=model,
            prompt_ids=ids,
            sampling=sampling,
            deadline_s=job.deadline_s,
        )

    async def _write(self, work: Work, before: asyncio.Task[None] | None) -> None:
        """Stream one text to the cloud, once `before` is over; ends in exactly one Expansion or
        Failure unless it is cancelled.
        """
        if before is not None:
            await asyncio.wait([before])
        began = self._clock()
        text: list[str] = []
        num_told = 0  # tokens
        engine_id = f"{work.request_id}/{work.index}/{work.attempt}"
        stream = work.loop.stream(
            engine_id, work.prompt_ids, work.sampling, terms=Terms(deadline_s=work.deadline_s)
        )
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    text.append(output.text)
                    if output.text:
                        await self._outbox.send(_delta(work, output, num_told))
                        num_told = output.num_completion_tokens
            seconds = self._clock() - began
            await self._outbox.send(_expansion(work, "".join(text), output, seconds))
        except EdgeLost as error:  # the link is down: the cloud has given this job to another
            logger.info("not delivered: %s", error, extra={"request_id": work.request_id})
        except PicertError as error:
            await self._fail(work, work.index, error)

    async def _fail(
        self, job: Work | ExpandJob | AnswerJob, index: int, error: PicertError
    ) -> None:
        logger.info("segment %d: %s", index, error, extra={"request_id": job.request_id})
        failure = Failure(
            request_id=job.request_id,
            index=index,
            attempt=job.attempt,
            code=error.code or "server_error",
            message=error.message,
        )
        try:
            await self._outbox.send(failure)
        except EdgeLost as lost:
            logger.info("not delivered: %s", lost, extra={"request_id": job.request_id})

    async def _cancel(self, cancel: Cancel) -> None:
        await self._end(
            [
                key
                for key in self._tasks
                if key[0] == cancel.request_id
                and cancel.index in (None, key[1])
                and cancel.attempt in (None, key[2])
            ]
        )

    def _spawn(self, key: TaskKey, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"expand {key}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def _forget(self, key: TaskKey, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()):
            logger.error(
                "expansion failed: %s", error, extra={"request_id": key[0]}, exc_info=error
            )

    async def _end(self, keys: Sequence[TaskKey]) -> None:
        tasks = [self._tasks[key] for key in keys if key in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _delta(work: Work, output: Output, num_told: int) -> TextDelta:
    num_tokens = output.num_completion_tokens - num_told
    return TextDelta(
        *(work.request_id, work.index, work.attempt, output.text), num_tokens=num_tokens
    )


def _expansion(work: Work, text: str, last: Output, seconds: float) -> Expansion:
    num_tokens = last.num_completion_tokens
    return Expansion(
        request_id=work.request_id,
        index=work.index,
        attempt=work.attempt,
        text=text,
        finish_reason=last.finish_reason or "error",
        model=work.model,
        prompt_tokens=last.num_prompt_tokens,
        cached_tokens=last.num_cached_tokens,
        completion_tokens=num_tokens,
        mean_logprob=last.sum_logprob / num_tokens if num_tokens else 0.0,
        seconds=seconds,
    )
