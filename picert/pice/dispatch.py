"""Which job goes to which edge next: a queue in order of arrival, and a pure choice of the edge."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from picert.messages import AnswerJob, ExpandJob

EdgeJob = ExpandJob | AnswerJob


@dataclass(frozen=True, slots=True)
class EdgeView:
    """One edge as the choice sees it."""

    name: str
    is_available: bool  # alive, not on probation, not draining
    slots: int  # sequences it decodes at once
    num_in_flight: int  # segments it was given and has not finished
    last_used: float = 0.0  # when it was last given a job, by any clock; 0: never

    @property
    def free_slots(self) -> int:
        """Sequences that it could start at once."""
        return max(0, self.slots - self.num_in_flight) if self.is_available else 0


def choose_edge(views: Sequence[EdgeView], avoid: Collection[str] = ()) -> str | None:
    """The edge for the next job: of those with a free slot the one with the fewest in flight, then
    the one unused for longest, so that every edge gets work. None if there is none; an edge named
    in `avoid` is never chosen."""
    ready = [view for view in views if view.free_slots > 0 and view.name not in avoid]
    best = min(
        ready, key=lambda view: (view.num_in_flight, view.last_used, view.name), default=None
    )
    return best.name if best else None


def job_size(job: EdgeJob) -> int:
    """Sequences that a job starts at its edge."""
    return len(job.segments) if isinstance(job, ExpandJob) else 1


class DispatchQueue:
    """Jobs that wait for an edge, first in, first out. Who pushes a request's jobs removes them
    when it ends."""

    def __init__(self) -> None:
        self._jobs: deque[EdgeJob] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def push(self, job: EdgeJob, *, first: bool = False) -> None:
        """Queue a job; `first` puts one that lost its edge ahead of all others."""
        if first:
            self._jobs.appendleft(job)
        else:
            self._jobs.append(job)

    def next_for(self, free_slots: int) -> EdgeJob | None:
        """Take out the oldest job that fits `free_slots`, else the oldest: an edge queues what it
        cannot start at once. None without a free slot or a job."""
        if free_slots < 1 or not self._jobs:
            return None
        fitting = next((job for job in self._jobs if job_size(job) <= free_slots), self._jobs[0])
        self._jobs.remove(fitting)
        return fitting

    def discard(self, job: EdgeJob) -> None:
        """Drop one waiting job, if it is there."""
        if job in self._jobs:
            self._jobs.remove(job)

    def remove(self, request_id: str) -> int:
        """Drop all waiting jobs of a request; returns how many there were."""
        kept = [job for job in self._jobs if job.request_id != request_id]
        removed = len(self._jobs) - len(kept)
        self._jobs = deque(kept)
        return removed
