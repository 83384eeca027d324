"""Grouping and dispatch, slow and obvious: oracles of picert._C.SegmentBatcher and DispatchLists.

The rules are those of csrc/sched/segment_batcher.h and dispatch_lists.h; everything is looked up
and added up afresh each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

BOUNDS = (32, 64, 128, 256)


def best_seconds(tokens: Sequence[int], step_s: Sequence[float], read_s: float) -> float:
    """The least predicted time of any cut into neighbouring groups: a dynamic program over the last
    group."""
    before = [0]
    for count in tokens:
        before.append(before[-1] + count)
    longest = {0: 0}  # segments taken -> least possible longest group, with k groups
    best = math.inf
    for k in range(1, min(len(tokens), len(step_s)) + 1):
        longest = {
            end: min(
                max(longest[start], before[end] - before[start]) for start in longest if start < end
            )
            for end in range(k, len(tokens) + 1)
        }
        best = min(best, k * read_s + longest[len(tokens)] * step_s[k - 1])
    return best


@dataclass
class TwinJob:
    request: int
    prompt_tokens: int
    tail_tokens: int
    tokens: int
    kv_tokens: int
    since: float
    goes_first: bool
    avoid: list[int]
    arrival: int
    listed: int  # its list, by the length predicted at first
    edge: int | None = None
    finish: float = 0.0


@dataclass
class TwinEdge:
    slots: int
    kv_tokens: int
    link_s: float
    read_s: float
    step_s: list[tuple[int, float]]
    is_available: bool = True
    reads_until: float = 0.0
    last_used: int = 0
    jobs: list[int] = field(default_factory=list)  # in order of start

    def step(self, batch: int) -> float:
        """Seconds of a step with `batch` sequences."""
        if batch <= self.step_s[0][0]:
            return self.step_s[0][1]
        for (low, low_s), (high, high_s) in zip(self.step_s, self.step_s[1:], strict=False):
            if batch <= high:
                return low_s + (high_s - low_s) * (batch - low) / (high - low)
        return self.step_s[-1][1]


class TwinLists:
    """What DispatchLists does, for the disciplines that it knows."""

    def __init__(self, discipline: str, aging_s: float) -> None:
        self.discipline = discipline
        self.aging_s = aging_s
        self.edges: dict[int, TwinEdge] = {}
        self.unused: list[int] = []
        self.num_edge_ids = 0
        self.jobs: dict[int, TwinJob] = {}
        self.readers: dict[int, list[int]] = {}  # request -> edges that have read its prompt
        self.num_added = 0
        self.num_pulls = 0
        self.last_turn = -1

    # --- tables ---

    def add_edge(self, *, slots: int, kv_tokens: int, **speed: object) -> int:
        if self.unused:
            edge = self.unused.pop()
        else:
            edge, self.num_edge_ids = self.num_edge_ids, self.num_edge_ids + 1
        self.edges[edge] = TwinEdge(slots, kv_tokens, **speed)  # type: ignore[arg-type]
        return edge

    def set_speed(self, edge: int, **speed: object) -> None:
        for name, value in speed.items():
            setattr(self.edges[edge], name, value)

    def set_available(self, edge: int, is_available: bool) -> None:
        self.edges[edge].is_available = is_available

    def remove_edge(self, edge: int) -> None:
        for job in self.edges.pop(edge).jobs:
            self._forget(job)
        self.unused.append(edge)
        for readers in self.readers.values():
            readers[:] = [reader for reader in readers if reader != edge]
        for job in self.jobs.values():
            job.avoid = [avoided for avoided in job.avoid if avoided != edge]

    def add(
        self, job: int, request: int, *, goes_first: bool, now: float, avoid: list[int], **size: int
    ) -> None:
        listed = sum(size["tokens"] > bound for bound in BOUNDS) if self._has_lists() else 0
        self.num_added += 1
        self.jobs[job] = TwinJob(
            request=request,
            since=now,
            goes_first=goes_first,
            avoid=list(avoid),
            arrival=self.num_added,
            listed=listed,
            **size,
        )
        self.readers.setdefault(request, [])

    def remove(self, job: int) -> bool:
        if job not in self.jobs:
            return False
        edge = self.jobs[job].edge
        if edge is not None:
            self.edges[edge].jobs.remove(job)
            if not self.edges[edge].jobs:
                self.edges[edge].reads_until = 0.0
        self._forget(job)
        return True

    def recount(self, job: int, written: int, now: float) -> int:
        known = self.jobs.get(job)
        if known is None or known.edge is None:
            return 0
        known.tokens = next((bound for bound in BOUNDS if bound > written), 2 * written)
        edge = self.edges[known.edge]
        known.finish = now + (known.tokens - written) * edge.step(len(edge.jobs))
        return known.tokens

    def _forget(self, job: int) -> None:
        request = self.jobs.pop(job).request
        if not any(other.request == request for other in self.jobs.values()):
            del self.readers[request]

    def _has_lists(self) -> bool:
        return self.discipline == "lists"

    # --- the choice ---

    def pull(self, now: float) -> tuple[int, list[int]] | None:
        waiting = self.waiting()
        if not waiting or not self.num_free:
            return None
        pulled = self._pull_lists(now) if self._has_lists() else self._pull_baseline(now)
        self.num_pulls += pulled is not None
        return pulled

    def waiting(self, listed: int | None = None) -> list[int]:
        """Ids of waiting jobs, of one list or of all, first to last."""
        by_length = self.discipline == "shortest_first"
        ids = [
            job
            for job, known in self.jobs.items()
            if known.edge is None and listed in (None, known.listed)
        ]

        def key(job: int) -> tuple[bool, int, int]:
            known = self.jobs[job]
            return not known.goes_first, known.tokens if by_length else 0, known.arrival

        return sorted(ids, key=key)

    @property
    def num_free(self) -> int:
        return sum(e.slots - len(e.jobs) for e in self.edges.values() if e.is_available)

    def least_loaded(self, limit: int) -> list[int]:
        """The available edges with the smallest share of places taken, of equals the fastest."""
        there = [edge for edge, known in self.edges.items() if known.is_available]

        def rank(edge: int) -> tuple[float, float, int]:
            known = self.edges[edge]
            return len(known.jobs) / known.slots, known.step(1), edge

        return sorted(there, key=rank)[:limit]

    def tokens_per_s(self, edges: Sequence[int]) -> float:
        """That these edges write with every place taken; those that are not available, nothing."""
        known = [self.edges[edge] for edge in edges]
        return sum(e.slots / e.step(e.slots) for e in known if e.is_available)

    def _pull_lists(self, now: float) -> tuple[int, list[int]] | None:
        def rank(listed: int) -> tuple[int, float, int, int]:
            ids = self.waiting(listed)
            first = self.jobs[ids[0]]
            group = 0 if first.goes_first else 1 if now - first.since >= self.aging_s else 2
            total = sum(self.jobs[job].tokens for job in ids)
            return group, first.since if group < 2 else 0.0, -total, listed

        for listed in sorted((n for n in range(5) if self.waiting(n)), key=rank):
            job = self.waiting(listed)[0]
            edge, finish_s = self._earliest(job, now)
            if edge is None:
                if rank(listed)[0] < 2 and self._lacks_memory(job):
                    return None
                continue
            if not self._should_wait(job, finish_s, now):
                self._start(job, edge, now)
                return edge, [job, *self._fill(edge, listed, now)]
        return None

    def _fill(self, edge: int, listed: int, now: float) -> list[int]:
        taken: list[int] = []
        others = [n for d in range(1, 5) for n in (listed - d, listed + d) if 0 <= n < 5]
        for other in (listed, *others):
            if other != listed and self.waiting(listed):
                break  # nothing is stolen while the edge's own list has jobs
            while (ids := self.waiting(other)) and self._has_place(edge):
                best, finish_s = self._earliest(ids[0], now)
                if best != edge or self._should_wait(ids[0], finish_s, now):
                    break
                self._start(ids[0], edge, now)
                taken.append(ids[0])
        return taken

    def _has_place(self, edge: int) -> bool:
        known = self.edges[edge]
        return known.is_available and len(known.jobs) < known.slots

    def _allowed(self, job: int) -> list[int]:
        """Available edges that the job does not avoid, or all if it can avoid none."""
        there = [edge for edge, known in self.edges.items() if known.is_available]
        wanted = [edge for edge in there if edge not in self.jobs[job].avoid]
        return wanted or there

    def _fits(self, job: int, edge: int) -> bool:
        known = self.edges[edge]
        held = sum(self.jobs[other].kv_tokens for other in known.jobs)
        return not known.jobs or held + self.jobs[job].kv_tokens <= known.kv_tokens

    def _lacks_memory(self, job: int) -> bool:
        return any(
            self._has_place(edge) and not self._fits(job, edge) for edge in self._allowed(job)
        )

    def _finish_s(self, job: int, edge: int, now: float) -> float:
        known, size = self.edges[edge], self.jobs[job]
        has_read = edge in self.readers[size.request]
        to_read = size.tail_tokens if has_read else size.prompt_tokens
        reading = max(0.0, known.reads_until - now) + to_read * known.read_s
        return known.link_s + reading + size.tokens * known.step(len(known.jobs) + 1)

    def _earliest(self, job: int, now: float) -> tuple[int | None, float]:
        ready = [e for e in self._allowed(job) if self._has_place(e) and self._fits(job, e)]
        best = min(
            ready,
            key=lambda e: (self._finish_s(job, e, now), self.edges[e].last_used, e),
            default=None,
        )
        return best, math.inf if best is None else self._finish_s(job, best, now)

    def _should_wait(self, job: int, finish_s: float, now: float) -> bool:
        size = self.jobs[job]
        waiting = sum(self.jobs[other].tokens for other in self.waiting())
        done = 0
        for other in self._allowed(job):
            if self._has_place(other):
                continue  # it would not be done earlier, or it were the choice
            known = self.edges[other]
            job_s = size.prompt_tokens * known.read_s + size.tokens * known.step(known.slots)
            left_s = finish_s - known.link_s - self._running_s(other, now)
            if left_s >= job_s:
                done += known.slots * int(left_s / job_s)
        return done >= math.ceil(waiting / size.tokens)

    def _running_s(self, edge: int, now: float) -> float:
        known = self.edges[edge]
        ends = [self.jobs[job].finish for job in known.jobs]
        if any(end < now for end in ends):
            return sum(abs(end - now) for end in ends) / known.slots
        return (sum(ends) - len(ends) * now) / known.slots

    def _start(self, job: int, edge: int, now: float) -> None:
        known, size = self.edges[edge], self.jobs[job]
        has_read = edge in self.readers[size.request]
        size.finish = now + self._finish_s(job, edge, now)
        to_read = size.tail_tokens if has_read else size.prompt_tokens
        known.reads_until = max(known.reads_until, now) + to_read * known.read_s
        if not has_read:
            self.readers[size.request].append(edge)
        size.edge = edge
        known.jobs.append(job)
        known.last_used = self.num_pulls + 1

    # --- the baselines ---

    def _pull_baseline(self, now: float) -> tuple[int, list[int]] | None:
        job = self.waiting()[0]
        ready = [e for e in self._allowed(job) if self._has_place(e) and self._fits(job, e)]

        def rank(edge: int) -> tuple[float, int]:
            known = self.edges[edge]
            if self.discipline == "round_robin":
                return (edge - self.last_turn - 1) % self.num_edge_ids, edge
            if self.discipline == "least_loaded":
                return len(known.jobs) / known.slots, known.last_used
            return known.last_used, edge

        if not ready:
            return None
        edge = min(sorted(ready), key=rank)
        self._start(job, edge, now)
        self.last_turn = edge
        return edge, [job]
