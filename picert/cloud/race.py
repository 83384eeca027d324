"""What edges write for one segment, piece by piece; and several of them at once, of which one text
is chosen.

Text that was shown never changes. So the candidates of a race are held back until all have ended,
or until one that is fit has ended while the segment is at the front of the answer: there waiting
for the others costs the reader time, behind the front it costs nothing. Who wants a choice all the
same has some patience.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import msgspec

from picert.cloud.assignment import Assignment, Count, counted
from picert.cloud.edges import EdgePool
from picert.errors import PicertError
from picert.messages import AnswerJob, ExpandJob, Expansion, Segment
from picert.pice.shaping import ExpansionShaper

Show = Callable[[str], None]
IsEnough = Callable[[Sequence[Expansion]], bool]


async def relay(assignment: Assignment, job: ExpandJob, segment: Segment, show: Show) -> Expansion:
    """Hand an edge's text to `show` as it arrives, shaped; returns its Expansion, with all of the
    shaped text.

    A text that the shaper ends (it goes round in circles) is stopped.
    """
    shaper = ExpansionShaper(segment.text, job.written)
    num_tokens = 0
    async for piece in assignment:
        if isinstance(piece, Expansion):
            show(shaper.finish(cut=piece.finish_reason == "length"))
            return msgspec.structs.replace(piece, text=shaper.text)
        num_tokens += piece.num_tokens
        show(shaper.push(piece.text))
        if shaper.is_over:
            break
    return stopped(job, segment.index, assignment.model, shaper.text, num_tokens)


def stopped(
    job: ExpandJob | AnswerJob, index: int, model: str, text: str, num_tokens: int
) -> Expansion:
    """What an edge wrote before it was told to stop: it reports no cost, so this is made up from
    the pieces that came."""
    return Expansion(
        request_id=job.request_id,
        index=index,
        attempt=job.attempt,
        text=text,
        finish_reason="cancelled",
        model=model,
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=num_tokens,
        mean_logprob=math.nan,  # nobody told it
        seconds=0.0,
    )


class Race:
    """Candidates of one segment, each a job of its own, at different edges as far as there are."""

    def __init__(
        self, edges: EdgePool, segment: Segment, at_front: asyncio.Event, count: Count
    ) -> None:
        self._edges = edges
        self._count = count
        self._segment = segment
        self._at_front = at_front
        self.found: list[Expansion] = []  # in the order in which they ended
        self.edge_of: dict[int, str] = {}  # attempt -> edge
        self.problems: list[tuple[int, PicertError]] = []  # of which candidate

    async def run(
        self, jobs: Sequence[ExpandJob], is_enough: IsEnough, patience_s: float = 0.0
    ) -> None:
        """Fill `found`. Leaves when every job has ended, or at the front of the answer when what
        was found `is_enough`, and was for `patience_s`; what still runs is cancelled."""
        clock = asyncio.get_running_loop().time
        enough_at: float | None = None
        async with AsyncExitStack() as stack:
            writing: set[asyncio.Task[None]] = set()
            front = asyncio.create_task(self._at_front.wait())
            stack.push_async_callback(_end, front, writing)
            for job in jobs:
                others = tuple(self.edge_of.values())
                running = counted(self._edges.run(job, avoid=others), self._count)
                assignment = await stack.enter_async_context(running)
                if assignment.edge is not None:
                    self.edge_of[job.attempt] = assignment.edge
                writing.add(asyncio.create_task(self._write(assignment, job)))
            while not all(task.done() for task in writing):
                open_tasks = {task for task in (front, *writing) if not task.done()}
                left_s = None
                if enough_at is not None and front.done():
                    left_s = max(0.0, enough_at + patience_s - clock())
                await asyncio.wait(open_tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not ((front.done() or patience_s > 0) and is_enough(self.found)):
                    enough_at = None
                    continue
                enough_at = clock() if enough_at is None else enough_at
                if front.done() and clock() >= enough_at + patience_s:
                    break

    async def _write(self, assignment: Assignment, job: ExpandJob) -> None:
        try:
            expansion = await relay(assignment, job, self._segment, lambda text: None)
        except PicertError as error:
            self.problems.append((job.candidate, error))
            return
        self.edge_of[job.attempt] = assignment.edge or ""
        self.found.append(expansion)


async def _end(front: asyncio.Task[bool], writing: set[asyncio.Task[None]]) -> None:
    for task in (front, *writing):
        task.cancel()
    await asyncio.gather(front, *writing, return_exceptions=True)
