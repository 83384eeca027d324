"""EdgePool: what each edge holds, and one way to have a job done: `run(job)`.

The pool owns one table, `_assignments`, an entry per segment of a job, added and removed by `run`.
Which edges are there is its roster's account, which job goes where its dispatcher's choice.
Liveness and the wire are the link's business; what to do after a loss is the caller's, because only
it knows what text has been shown.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec

from picert.cloud.assignment import Assignment, AssignmentKey, Clock, Job, joined
from picert.cloud.breaker import Breaker
from picert.cloud.roster import Roster
from picert.cloud.seat import EdgeLink, Seat
from picert.config import PolicyConfig
from picert.engine.stats import Histogram
from picert.errors import (
    EdgeLost,
    InvalidRequest,
    PicertError,
    QueueFull,
    error_from_code,
)
from picert.log import get_logger
from picert.messages import (
    Cancel,
    ExpandJob,
    Expansion,
    Failure,
    Hello,
    LoadModel,
    TextDelta,
)
from picert.pice.dispatch import Dispatcher, Place, Ticket
from picert.pice.ensemble import Calibrations
from picert.pice.needs import NeedsEstimator
from picert.pice.policy import Load
from picert.pice.profile import SpeedProfile
from picert.transport.events import (
    PeerChanged,
    PeerDraining,
    PeerEvent,
    PeerJoined,
    PeerLeft,
    PeerMessage,
)

logger = get_logger(__name__)
_RECHECK_S = 0.25  # how often a choice to wait is looked at again


class EdgePool:
    """The edges of one cloud.

    Everything runs on one event loop; `serve` must be running for anything to happen.
    """

    def __init__(
        self,
        link: EdgeLink,
        policy: PolicyConfig | None = None,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        policy = policy or PolicyConfig()
        self._link = link
        self._clock = clock
        self._rng = rng or random.Random()
        self._assignments: dict[AssignmentKey, Assignment] = {}
        self._dispatcher: Dispatcher[Assignment] = Dispatcher(
            policy.discipline, policy.aging_s, groups=policy.uses("grouping")
        )
        self.roster = Roster(link, self._dispatcher, policy, clock)
        self._needs = NeedsEstimator()
        self.calibrations = Calibrations()  # of the models that edges brought
        self.expansion_s = Histogram()  # at their edges, as these tell
        self.num_lost = 0  # edges that left while they held jobs
        self.num_failed = 0  # jobs that edges failed at, late ones among them

    async def serve(self) -> None:
        """Follow the link until it closes; then every job still open ends with EdgeLost."""
        looking_again = asyncio.create_task(self._look_again())
        try:
            async for event in self._link.events():
                self._take(event)
                if not (isinstance(event, PeerMessage) and isinstance(event.message, TextDelta)):
                    await self._dispatch()  # more text makes no place free
        finally:
            looking_again.cancel()
            await asyncio.gather(looking_again, return_exceptions=True)
            for assignment in list(self._assignments.values()):
                assignment.deliver(EdgeLost("the link to the edges is closed"))

    @asynccontextmanager
    async def run(self, job: Job, avoid: Iterable[str] = ()) -> AsyncIterator[Assignment]:
        """Queue `job` for the edge that will be done with it first, of preference none in `avoid`;
        leaving the block cancels what is left.

        Iterating the assignment raises EdgeLost when its edge is gone or late, or there is none.
        """
        assignment = Assignment(job, avoid)
        keys = assignment.keys()
        self._assignments.update(dict.fromkeys(keys, assignment))
        self._dispatcher.push(assignment, self._ticket(assignment), self._clock())
        try:
            await self._dispatch()
            yield assignment
        finally:
            for key in keys:
                del self._assignments[key]
            assignment.end()
            await self._release(assignment)

    def queue_depths(self) -> dict[str, int]:
        """Jobs that wait for an edge, by list."""
        return self._dispatcher.queue_depths()

    def load(self, num_cloud_running: int) -> Load:
        """What the policy wants to know of this moment."""
        return self.roster.load(num_cloud_running, self._needs.expansion_tokens)

    def speed_of(self, edge: str) -> SpeedProfile | None:
        """What is known of an edge's speed; None once it has left."""
        seat = self.roster.seat(edge)
        return seat.speed if seat else None

    def backlog_s(self) -> float:
        """Predicted seconds until an edge could begin a job that comes now; infinite without."""
        return self._dispatcher.backlog_s(self._clock())

    def self_check(self) -> None:
        """Recompute the counters from the tables. Raises AssertionError where they differ."""
        self._dispatcher.self_check()
        jobs = {id(a): a for a in self._assignments.values()}.values()
        for name, seat in self.roster.seats():
            held = [a for a in jobs if a.registration is seat.hello]
            num_groups = self._dispatcher.num_in_flight(name)
            assert bool(held) == bool(num_groups), (name, num_groups, held)
            assert num_groups <= len(held), (name, num_groups, held)

    @property
    def num_open(self) -> int:
        """Segments that are queued or at an edge."""
        return len(self._assignments)

    # --- jobs on their way out ---

    def _ticket(self, assignment: Assignment) -> Ticket:
        """A first try at one segment may share a place with its neighbours'."""
        job, avoid = assignment.job, assignment.avoid
        place = None
        if isinstance(job, ExpandJob) and len(job.segments) == 1 and not job.written and not avoid:
            place = Place(job.segments[0].index, (job.attempt, job.model, job.seed))
        return Ticket(job.request_id, self._needs.of(job), place, bool(avoid), avoid)

    async def _look_again(self) -> None:
        """A job may wait for an edge that turns out to be slow, or for one to come off probation;
        no event tells."""
        while True:
            await asyncio.sleep(_RECHECK_S)
            if self._dispatcher.num_waiting:
                await self._dispatch()

    async def _dispatch(self) -> None:
        """Give waiting jobs to edges while that is worth it. One that no edge can take any more
        ends."""
        self.roster.look()
        for name, model in self.roster.switch_models():
            await self._ask_to_load(name, model)
        while pulled := self._dispatcher.pull(self._clock()):
            edge, groups = pulled
            for group in groups:
                await self._send(group, edge)
        if not self._dispatcher.num_slots and not self.roster.is_loading:
            self._give_up_waiting()

    async def _send(self, group: Sequence[Assignment], edge: str) -> None:
        """Tell `edge` of one group, as one job; each of its assignments has the time of those
        before it and its own."""
        seat = self.roster.seat(edge)
        assert seat is not None  # it was given the group in this very turn
        if seat.breaker.state != "closed":
            seat.breaker.begin()
            self.roster.look_at(edge)  # one that is tried after failures gets one batch
        model = group[0].job.model or seat.model
        deadline_s = 0.0
        for assignment in group:
            deadline_s += assignment.job.deadline_s
            assignment.begin(edge, seat.hello, model, deadline_s)
        job = joined([assignment.job for assignment in group], deadline_s)
        try:
            await self._link.send(edge, msgspec.structs.replace(job, model=model))
        except PicertError as error:
            for assignment in group:
                assignment.deliver(EdgeLost(f"edge {edge} could not be given a job: {error}"))

    async def _ask_to_load(self, name: str, model: str) -> None:
        """Its jobs go on; when it has loaded the model it says Hello anew."""
        try:
            await self._link.send(name, LoadModel(model))
        except PicertError as error:
            logger.warning("edge %s could not be asked to load %s: %s", name, model, error)

    async def _release(self, assignment: Assignment) -> None:
        """Take the job out of the queue or off its edge, and tell the edge to stop what is
        unfinished.
        """
        self._dispatcher.remove(assignment)
        edge, job = assignment.edge, assignment.job
        seat = self.roster.seat(edge or "")
        if edge is None or seat is None or seat.hello is not assignment.registration:
            return  # it never left, or that edge is gone
        self._judge(seat.breaker, assignment)
        try:
            for index in assignment.open:
                await self._link.send(edge, Cancel(job.request_id, index, job.attempt))
        except PicertError as error:
            logger.debug("cancel not sent: %s", error, extra={"request_id": job.request_id})
        await self._dispatch()

    def _judge(self, breaker: Breaker, assignment: Assignment) -> None:
        """Tell the edge's breaker how its job ended; what its owner took back says nothing."""
        if not assignment.open:
            breaker.succeed()
        elif assignment.error is None or isinstance(assignment.error, InvalidRequest | QueueFull):
            breaker.forget_try()
        else:
            self.num_failed += 1
            if breaker.fail():
                logger.warning("edge %s fails again and again: it pauses", assignment.edge)
        self.roster.look_at(assignment.edge or "")

    def _give_up_waiting(self) -> None:
        for assignment in list(self._assignments.values()):
            if assignment.edge is None:
                self._dispatcher.remove(assignment)
                assignment.deliver(EdgeLost("no edge is available"))

    # --- what the link reports ---

    def _take(self, event: PeerEvent) -> None:
        if isinstance(event, PeerJoined):
            self._join(event.name, event.hello)
        elif isinstance(event, PeerDraining):
            self.roster.drain(event.name)
        elif isinstance(event, PeerLeft):
            self._leave(event.name, event.reason)
        elif isinstance(event, PeerChanged):
            before = self._leave(event.name, "it holds other models now")
            self._join(event.name, event.hello, before)
        else:
            self._deliver(event)

    def _join(self, name: str, hello: Hello, before: Seat | None = None) -> None:
        seat = Seat(hello, Breaker(self._clock, self._rng))
        if before is not None:
            seat.inherit(before)
        self.roster.join(name, seat)
        for model in hello.models:
            if model.calibration is not None:
                self.calibrations.set(model.name, model.calibration)
        logger.info("edge %s joined with %s", name, ", ".join(m.name for m in hello.models))

    def _leave(self, name: str, reason: str) -> Seat:
        seat = self.roster.leave(name)
        its = (a for a in self._assignments.values() if a.registration is seat.hello)
        held = {id(a): a for a in its if a.missing}
        self.num_lost += bool(held)
        logger.warning("edge %s left (%s) with %d jobs", name, reason, len(held))
        for assignment in held.values():
            assignment.deliver(EdgeLost(f"edge {name} left: {reason}"))
        return seat

    def _deliver(self, event: PeerMessage) -> None:
        message = event.message
        if isinstance(message, Failure) and not message.request_id:
            logger.warning("edge %s could not load a model: %s", event.name, message.message)
            return
        wanted = (message.index,) if message.index is not None else self._indices_of(message)
        for index in wanted:
            assignment = self._assignments.get((message.request_id, index, message.attempt))
            if assignment is None or assignment.edge != event.name:
                continue  # of a job that is over: a late word, not an error
            if index not in assignment.open:
                continue  # said twice
            if isinstance(message, Failure):
                assignment.deliver(
                    error_from_code(message.code, f"{event.name}: {message.message}")
                )
                continue
            self._learn(event.name, assignment, message)
            assignment.deliver(message)

    def _learn(self, edge: str, assignment: Assignment, piece: TextDelta | Expansion) -> None:
        """Keep the accounts true: what was written, and how fast."""
        if isinstance(piece, TextDelta):
            self._dispatcher.wrote(assignment, piece.num_tokens, self._clock())
            return
        self.expansion_s.add(piece.seconds)
        self._needs.observe(assignment.job, piece)
        self.roster.learn(edge, piece, assignment.model)

    def _indices_of(self, failure: TextDelta | Expansion | Failure) -> list[int]:
        wanted = (failure.request_id, failure.attempt)
        return [index for rid, index, attempt in self._assignments if (rid, attempt) == wanted]
