"""EdgePool: which edges are there, what each holds, and one way to have a job done: `run(job)`.

The pool owns two tables: `_seats`, an entry per registered edge from PeerJoined to PeerLeft, and
`_assignments`, an entry per segment of a job, added and removed by `run`. Liveness and the wire are
the link's business; what to do after a loss is the caller's, because only it knows what text has
been shown.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from picert.cloud.breaker import Breaker
from picert.engine.stats import Histogram
from picert.errors import (
    EdgeLost,
    EdgeNotFound,
    InvalidRequest,
    PicertError,
    QueueFull,
    error_from_code,
)
from picert.log import get_logger
from picert.messages import AnswerJob, Cancel, ExpandJob, Expansion, Failure, Hello, TextDelta
from picert.pice.dispatch import DispatchQueue, EdgeView, choose_edge, job_size
from picert.pice.objective import EdgeState
from picert.pice.policy import Load
from picert.pice.profile import SpeedProfile
from picert.pice.switching import choose_model
from picert.transport.events import PeerDraining, PeerJoined, PeerLeft, PeerMessage
from picert.transport.link import ServerLink

logger = get_logger(__name__)
_MAX_GONE = 256  # names remembered, for whoever watches for edges that are missing
Clock = Callable[[], float]
Job = ExpandJob | AnswerJob
Piece = TextDelta | Expansion
AssignmentKey = tuple[str, int, int]  # request_id, segment index, attempt


@dataclass(slots=True)
class _Seat:
    """One registered edge, as the pool accounts for it."""

    hello: Hello
    breaker: Breaker
    speed: SpeedProfile = field(default_factory=SpeedProfile)
    is_draining: bool = False
    num_in_flight: int = 0
    last_used: float = 0.0


class Assignment:
    """One job from `EdgePool.run` to its end: iterate it for the pieces that its edge sends."""

    def __init__(self, job: Job, avoid: Iterable[str], clock: Clock) -> None:
        self.job = job
        self.avoid = frozenset(avoid)
        self.edge: str | None = None  # None while it waits for a free slot
        self.seat: _Seat | None = None  # of that edge; a new registration of its name has another
        self.open = set(_indices(job))
        self.error: PicertError | None = None  # that ended it
        self._clock = clock
        self._sent_at = 0.0
        self._inbox: asyncio.Queue[Piece | PicertError | None] = asyncio.Queue()

    def keys(self) -> list[AssignmentKey]:
        """What its messages are known by, one key a segment that is not finished."""
        return [(self.job.request_id, index, self.job.attempt) for index in self.open]

    def begin(self, edge: str, seat: _Seat) -> None:
        """It is on its way to `edge`; its deadline runs from here."""
        self.edge, self.seat = edge, seat
        self._sent_at = self._clock()
        self._inbox.put_nowait(None)  # whoever waits shall wait by the deadline now

    def deliver(self, item: Piece | PicertError) -> None:
        """Hand over what arrived for it, or why nothing more will."""
        self._inbox.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces until every segment has its Expansion.

        Raises what its edge reported, or EdgeLost.
        """
        while self.open:
            item = await self._next()
            if isinstance(item, PicertError):
                self.error = item
                raise item
            if isinstance(item, Expansion):
                self.open.discard(item.index)
            yield item

    async def _next(self) -> Piece | PicertError:
        item = None
        while item is None:
            try:
                item = await asyncio.wait_for(self._inbox.get(), self._patience_s())
            except asyncio.TimeoutError:
                return EdgeLost(f"edge {self.edge} did not finish in {self.job.deadline_s:.1f} s")
        return item

    def _patience_s(self) -> float | None:
        """None while it is in the queue: the pool ends it when no edge is left, its owner when time
        is up.
        """
        if self.edge is None:
            return None
        return max(0.0, self._sent_at + self.job.deadline_s - self._clock())


class EdgePool:
    """The edges of one cloud.

    Everything runs on one event loop; `serve` must be running for anything to happen.
    """

    def __init__(
        self,
        link: ServerLink,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._link = link
        self._clock = clock
        self._rng = rng or random.Random()
        self._seats: dict[str, _Seat] = {}
        self._assignments: dict[AssignmentKey, Assignment] = {}
        self._queue = DispatchQueue()
        self.expansion_s = Histogram()  # at their edges, as these tell
        self._gone: dict[str, None] = {}  # names that left, latest last
        self.num_lost = 0  # edges that left while they held jobs
        self.num_failed = 0  # jobs that edges failed at, late ones among them

    async def serve(self) -> None:
        """Follow the link until it closes; then every job still open ends with EdgeLost."""
        try:
            async for event in self._link.events():
                if isinstance(event, PeerJoined):
                    self._gone.pop(event.name, None)
                    self._seats[event.name] = _Seat(event.hello, Breaker(self._clock, self._rng))
                    logger.info("edge %s joined with %s", event.name, _names(event.hello))
                elif isinstance(event, PeerDraining):
                    self._seats[event.name].is_draining = True
                elif isinstance(event, PeerLeft):
                    self._leave(event)
                else:
                    self._deliver(event)
                await self._dispatch()
        finally:
            for assignment in list(self._assignments.values()):
                assignment.deliver(EdgeLost("the link to the edges is closed"))

    @asynccontextmanager
    async def run(self, job: Job, avoid: Iterable[str] = ()) -> AsyncIterator[Assignment]:
        """Queue `job` for the next free edge, of preference none in `avoid`; leaving the block
        cancels what is left.

        Iterating the assignment raises EdgeLost when its edge is gone or late, or when there is no
        edge at all.
        """
        assignment = Assignment(job, avoid, self._clock)
        keys = assignment.keys()
        self._assignments.update(dict.fromkeys(keys, assignment))
        self._queue.push(job, first=job.attempt > 0)
        try:
            await self._dispatch()
            yield assignment
        finally:
            for key in keys:
                del self._assignments[key]
            await self._release(assignment)

    def views(self) -> list[EdgeView]:
        """Every registered edge, as the choice of an edge sees it."""
        return [
            EdgeView(
                name=name,
                is_available=self._is_available(name, seat),
                slots=seat.hello.slots,
                num_in_flight=seat.num_in_flight,
                last_used=seat.last_used,
            )
            for name, seat in self._seats.items()
        ]

    def drain(self, name: str) -> None:
        """Give an edge nothing new until it registers again; its jobs go on.

        Raises EdgeNotFound.
        """
        seat = self._seats.get(name)
        if seat is None:
            raise EdgeNotFound(f"edge {name[:64]!r} is not connected: GET /admin/edges lists them")
        seat.is_draining = True

    def report(self) -> list[dict[str, Any]]:
        """Every registered edge, for those who look after them."""
        return [
            {
                "name": name,
                "state": self._link.state(name),
                "draining": seat.is_draining,
                "breaker": seat.breaker.state,
                "available": self._is_available(name, seat),
                "version": seat.hello.picert_version,
                "models": [model.name for model in seat.hello.models],
                "slots": seat.hello.slots,
                "in_flight": seat.num_in_flight,
            }
            for name, seat in self._seats.items()
        ]

    def known(self) -> dict[str, bool]:
        """Names of edges, registered or lately gone -> whether it takes jobs."""
        here = {name: self._is_available(name, seat) for name, seat in self._seats.items()}
        return {**dict.fromkeys(self._gone, False), **here}

    def queue_depths(self) -> dict[str, int]:
        """Jobs that wait for an edge, by list."""
        return {"all": len(self._queue)}

    def _is_available(self, name: str, seat: _Seat) -> bool:
        """It may be given a job now."""
        is_alive = self._link.state(name) == "alive"
        return is_alive and not seat.is_draining and seat.breaker.allows()

    def load(self, num_cloud_running: int) -> Load:
        """What the policy wants to know of this moment."""
        ready = [view for view in self.views() if view.is_available]
        contexts = [
            model.max_model_len for view in ready for model in self._seats[view.name].hello.models
        ]
        return Load(
            num_edges=len(ready),
            edge_slots=sum(view.slots for view in ready),
            num_edge_jobs=len(self._queue) + sum(view.num_in_flight for view in ready),
            num_cloud_running=num_cloud_running,
            edge_context=min(contexts, default=None),
            edges=tuple(self._state(view) for view in ready),
        )

    def _state(self, view: EdgeView) -> EdgeState:
        seat = self._seats[view.name]
        writer = max(seat.hello.models, key=lambda model: model.num_parameters).name
        return EdgeState(view.slots, view.num_in_flight, seat.speed, model=writer)

    def model_of(self, assignment: Assignment) -> str:
        """The model that writes a job at its edge."""
        if assignment.job.model is not None or assignment.seat is None:
            return assignment.job.model or ""
        return choose_model(assignment.job, assignment.seat.hello.models)

    def speed_of(self, edge: str) -> SpeedProfile | None:
        """What is known of an edge's speed; None once it has left."""
        seat = self._seats.get(edge)
        return seat.speed if seat else None

    def slowest(self) -> SpeedProfile:
        """The speed to plan deadlines by: the slowest edge's, or the prior without edges."""
        speeds = [seat.speed for seat in self._seats.values()]
        return max(speeds, key=lambda speed: speed.decode_seconds(1), default=SpeedProfile())

    def self_check(self) -> None:
        """Recompute the counters from the tables. Raises AssertionError where they differ."""
        jobs = {id(a): a for a in self._assignments.values()}.values()
        for name, seat in self._seats.items():
            held = sum(job_size(a.job) for a in jobs if a.edge == name)
            assert seat.num_in_flight == held, (name, seat.num_in_flight, held)
        waiting = sum(a.edge is None for a in jobs)
        assert len(self._queue) <= waiting, (len(self._queue), waiting)

    @property
    def num_open(self) -> int:
        """Segments that are queued or at an edge."""
        return len(self._assignments)

    async def _dispatch(self) -> None:
        """Give waiting jobs to edges while both are there.

        One that no edge can take any more ends.
        """
        while self._queue:
            views = self.views()
            job = self._queue.next_for(max((view.free_slots for view in views), default=0))
            if job is None:
                break
            assignment = self._find(job)
            edge = choose_edge(views, assignment.avoid) or choose_edge(views)
            assert edge is not None, "a job was taken for a slot that is not there"
            await self._send(assignment, edge)
        if not any(view.is_available for view in self.views()):
            self._give_up_waiting()

    async def _send(self, assignment: Assignment, edge: str) -> None:
        seat = self._seats[edge]
        seat.num_in_flight += job_size(assignment.job)
        seat.last_used = self._clock()
        seat.breaker.begin()
        assignment.begin(edge, seat)
        try:
            await self._link.send(edge, assignment.job)
        except PicertError as error:
            assignment.deliver(EdgeLost(f"edge {edge} could not be given a job: {error}"))

    async def _release(self, assignment: Assignment) -> None:
        """Take the job out of the queue or off its edge, and tell the edge to stop what is
        unfinished.
        """
        job = assignment.job
        if assignment.edge is None:
            self._queue.discard(job)
            return
        if assignment.seat is None or assignment.seat is not self._seats.get(assignment.edge):
            return  # that edge is gone, and its seat with it
        assignment.seat.num_in_flight -= job_size(job)
        self._judge(assignment.edge, assignment)
        try:
            for index in assignment.open:
                cancel = Cancel(job.request_id, index, job.attempt)
                await self._link.send(assignment.edge, cancel)
        except PicertError as error:
            logger.debug("cancel not sent: %s", error, extra={"request_id": job.request_id})
        await self._dispatch()

    def _judge(self, edge: str, assignment: Assignment) -> None:
        """Tell the edge's breaker how its job ended; what its owner took back says nothing."""
        assert assignment.seat is not None
        breaker = assignment.seat.breaker
        if not assignment.open:
            breaker.succeed()
        elif assignment.error is None or isinstance(assignment.error, InvalidRequest | QueueFull):
            breaker.forget_try()
        else:
            self.num_failed += 1
            if breaker.fail():
                logger.warning("edge %s fails again and again: it gets a pause", edge)

    def _deliver(self, event: PeerMessage) -> None:
        message = event.message
        indices = (message.index,) if message.index is not None else self._indices_of(message)
        for index in indices:
            assignment = self._assignments.get((message.request_id, index, message.attempt))
            if assignment is None or assignment.edge != event.name:
                continue  # of a job that is over: a late word, not an error
            if isinstance(message, Failure):
                assignment.deliver(
                    error_from_code(message.code, f"{event.name}: {message.message}")
                )
            else:
                if isinstance(message, Expansion):
                    self.expansion_s.add(message.seconds)
                assignment.deliver(message)

    def _indices_of(self, failure: TextDelta | Expansion | Failure) -> list[int]:
        wanted = (failure.request_id, failure.attempt)
        return [index for rid, index, attempt in self._assignments if (rid, attempt) == wanted]

    def _leave(self, event: PeerLeft) -> None:
        del self._seats[event.name]
        self._gone[event.name] = None
        if len(self._gone) > _MAX_GONE:
            del self._gone[next(iter(self._gone))]
        held = {id(a): a for a in self._assignments.values() if a.edge == event.name}
        self.num_lost += bool(held)
        logger.warning("edge %s left (%s) with %d jobs", event.name, event.reason, len(held))
        for assignment in held.values():
            assignment.deliver(EdgeLost(f"edge {event.name} left: {event.reason}"))

    def _give_up_waiting(self) -> None:
        for assignment in list(self._assignments.values()):
            if assignment.edge is None:
                self._queue.discard(assignment.job)
                assignment.deliver(EdgeLost("no edge is available"))

    def _find(self, job: Job) -> Assignment:
        return self._assignments[job.request_id, _indices(job)[0], job.attempt]


def _indices(job: Job) -> list[int]:
    return [segment.index for segment in job.segments] if isinstance(job, ExpandJob) else [0]


def _names(hello: Hello) -> str:
    return ", ".join(model.name for model in hello.models)
