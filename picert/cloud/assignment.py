"""Assignment: one job from `EdgePool.run` to its end, as its owner sees it: an iterator of pieces.

It holds what arrived and the deadline, a timer from the moment it is sent; where the job waits or
runs is the pool's account.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from picert.errors import EdgeLost, PicertError
from picert.messages import AnswerJob, ExpandJob, Expansion, Hello, TextDelta

Clock = Callable[[], float]
Job = ExpandJob | AnswerJob
Piece = TextDelta | Expansion
Count = Callable[[int, int], None]  # takes tokens of prompts and tokens that were drawn
AssignmentKey = tuple[str, int, int]  # request_id, segment index, attempt


class Assignment:
    """Iterate it for the pieces that its edge sends."""

    def __init__(self, job: Job, avoid: Iterable[str]) -> None:
        self.job = job
        self.avoid = tuple(avoid)
        self.edge: str | None = None  # None while it waits for a free place
        self.model = job.model or ""  # that writes it, known when it is sent
        self.registration: Hello | None = None  # of that edge; when it joins anew it has another
        self.open = set(indices(job))  # segments whose Expansion its owner has not seen
        self.missing = set(self.open)  # those whose Expansion has not come
        self.error: PicertError | None = None  # that ended it
        self.prompt_tokens = 0  # that its edge tells it has read
        self.told: Counter[int] = Counter()  # tokens its edge tells it has drawn, by segment
        self._alarm: asyncio.TimerHandle | None = None
        self._inbox: asyncio.Queue[Piece | PicertError] = asyncio.Queue()

    def keys(self) -> list[AssignmentKey]:
        """What its messages are known by, one key a segment that is not finished."""
        return [(self.job.request_id, index, self.job.attempt) for index in self.open]

    def begin(self, edge: str, registration: Hello, model: str, deadline_s: float) -> None:
        """It is on its way to `edge`; its deadline runs from here."""
        self.edge, self.registration, self.model = edge, registration, model
        late = EdgeLost(f"edge {edge} did not finish in {deadline_s:.1f} s")
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(max(0.0, deadline_s), self.deliver, late)

    def end(self) -> None:
        """Its owner has let go of it."""
        if self._alarm is not None:
            self._alarm.cancel()

    def deliver(self, item: Piece | PicertError) -> None:
        """Hand over what arrived for it, or why nothing more will.

        Counted at once: an edge that is stopped or lost tells no more than it has. An Expansion
        tells all of its segment, what its pieces told before among it.
        """
        if isinstance(item, TextDelta):
            self.told[item.index] += item.num_tokens
        elif isinstance(item, Expansion):
            self.prompt_tokens += item.prompt_tokens
            self.told[item.index] = item.completion_tokens
            self.missing.discard(item.index)
        self._inbox.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces until every segment has its Expansion.

        Raises what its edge reported, or EdgeLost.
        """
        while self.open:
            item = await self._inbox.get()
            if isinstance(item, PicertError):
                self.error = item
                raise item
            if isinstance(item, Expansion):
                self.open.discard(item.index)
            yield item


@asynccontextmanager
async def counted(
    running: AbstractAsyncContextManager[Assignment], count: Count
) -> AsyncIterator[Assignment]:
    """The same; what it has cost is counted at its end, however that comes."""
    async with running as assignment:
        try:
            yield assignment
        finally:
            count(assignment.prompt_tokens, assignment.told.total())


def indices(job: Job) -> list[int]:
    """The segments of a job; a whole answer counts as segment 0."""
    return [segment.index for segment in job.segments] if isinstance(job, ExpandJob) else [0]


def joined(jobs: Sequence[Job], deadline_s: float) -> Job:
    """Several jobs of one request as one, whose segments are written one after the other."""
    first = jobs[0]
    if not isinstance(first, ExpandJob):
        return first
    expands = [job for job in jobs if isinstance(job, ExpandJob)]
    return msgspec.structs.replace(
        first,
        outline=max((job.outline for job in expands), key=len),
        segments=tuple(segment for job in expands for segment in job.segments),
        deadline_s=deadline_s,
    )
