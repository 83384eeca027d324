"""Which job goes to which edge next: the thin face of `picert._C.DispatchLists`, and the grouping
of neighbours that wait.

The rules of the choice stand in csrc/sched/dispatch_lists.h. Here an *item* (whatever its owner
puts in) is one segment to write, and a *group* is what takes one place of an edge: items of
neighbouring segments, written one after the other. Items are grouped as late as can be, when a
place is free but not one for each: until then waiting costs nothing and more is known.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Generic, TypeVar

from picert import _C
from picert.config import Discipline
from picert.pice.grouping import Batcher
from picert.pice.needs import JobNeeds

_CHANGES_THAT_COUNT = 8  # one edge in so many has another pace: the mean over all is found anew
_MAX_WRITTEN = 1 << 24  # tokens of a text that an edge may claim: more than any context holds

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an edge is: seconds of an exchange, to read a token, and of a step by batch size."""

    link_s: float
    read_s: float
    step_s: tuple[tuple[int, float], ...]  # ascending; straight lines between

    def step(self, batch: int) -> float:
        """Seconds of a decoding step with `batch` sequences."""
        at = bisect_left(self.step_s, (batch, 0.0))
        if at == 0 or at == len(self.step_s):
            return self.step_s[min(at, len(self.step_s) - 1)][1]
        (low, low_s), (high, high_s) = self.step_s[at - 1 : at + 1]
        return low_s + (high_s - low_s) * (batch - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item stands in its answer: neighbours of one `kind` (the same try by the same model)
    may share a group."""

    index: int
    kind: Hashable = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an item waits with."""

    request: Hashable
    needs: JobNeeds
    place: Place | None = None  # None: it is never grouped
    goes_first: bool = False  # it has lost its edge
    avoid: tuple[str, ...] = ()  # edges that get it only if no other is there


@dataclass(slots=True)
class _Edge:
    number: int
    slots: int
    pace: Pace
    groups: set[int] = field(default_factory=set)  # that run there


@dataclass(slots=True)
class _Group(Generic[Item]):
    ticket: Ticket  # of the first item
    items: list[Item]  # in order; those that have left are gone from here
    needs: JobNeeds  # of all items
    since: float
    last: int  # index of the last item's segment
    edge: _Edge | None = None  # None: it waits
    written: int = 0

    def is_followed_by(self, other: _Group[Item]) -> bool:
        """`other` is the next of the same kind, so that the two may become one."""
        own, next_ = self.ticket.place, other.ticket.place
        if own is None or next_ is None:
            return False
        return (own.kind, self.last + 1) == (next_.kind, next_.index)


@dataclass(slots=True)
class _Request:
    number: int
    num_groups: int = 0


class Dispatcher(Generic[Item]):
    """Items that wait, edges that take them. Times are seconds of the caller's clock.

    Whoever pushes an item removes it, whether it has waited or run to its end.
    """

    def __init__(
        self, discipline: Discipline = "lists", aging_s: float = 2.0, *, groups: bool = True
    ) -> None:
        self._core = _C.DispatchLists(discipline, aging_s)
        self._has_lists = discipline == "lists"
        self._batcher = Batcher()
        self._may_group = groups
        self._edges: dict[str, _Edge] = {}
        self._names: dict[int, str] = {}
        self._groups: dict[int, _Group[Item]] = {}
        self._group_of: dict[Item, int] = {}
        self._requests: dict[Hashable, _Request] = {}
        self._waiting: dict[Hashable, set[int]] = {}  # request -> its groups that may be merged
        self._grown: dict[Hashable, None] = {}  # requests with new ones among them, in order
        self._mean_pace: Pace | None = None  # of all edges; None: to be found anew
        self._num_changes = 0  # of edges' paces since it was found
        self._newest = JobNeeds(0, 0, 0, 0)  # of the item pushed last
        self._next = 0

    # --- edges ---

    def add_edge(self, name: str, slots: int, kv_tokens: int, pace: Pace) -> None:
        """An edge that may be given groups, `slots` at once."""
        number = self._core.add_edge(
            slots=slots,
            kv_tokens=kv_tokens,
            link_s=pace.link_s,
            read_s=pace.read_s,
            step_s=pace.step_s,
        )
        self._edges[name] = _Edge(number, slots, pace)
        self._names[number] = name
        self._mean_pace = None

    def set_pace(self, name: str, pace: Pace) -> None:
        """An edge is faster or slower than it was thought to be, or runs another model."""
        edge = self._edges[name]
        if pace != edge.pace:
            edge.pace = pace
            self._num_changes += 1
            if _CHANGES_THAT_COUNT * self._num_changes >= len(self._edges):
                self._mean_pace = None
            self._core.set_speed(
                edge.number, link_s=pace.link_s, read_s=pace.read_s, step_s=pace.step_s
            )

    def set_available(self, name: str, is_available: bool) -> None:
        """Whether an edge may be given more; it keeps what it has."""
        self._core.set_available(self._edges[name].number, is_available)

    def remove_edge(self, name: str) -> None:
        """An edge is gone; its items must still be removed by their owners."""
        edge = self._edges.pop(name)
        del self._names[edge.number]
        edge.groups.clear()
        self._core.remove_edge(edge.number)
        self._mean_pace = None

    def num_in_flight(self, name: str) -> int:
        """Groups that an edge was given and that have not ended."""
        return self._core.num_running(self._edges[name].number)

    def least_loaded(self, limit: int) -> tuple[list[str], float]:
        """The available edges with the smallest share of their places taken, at most `limit`, and
        the share that they have of what all available edges write."""
        numbers = self._core.least_loaded(limit)
        return [self._names[number] for number in numbers], self._core.share_of_speed(numbers)

    @property
    def num_slots(self) -> int:
        """Places of available edges."""
        return self._core.num_slots

    @property
    def num_running(self) -> int:
        """Groups that run at available edges."""
        return self._core.num_slots - self._core.num_free

    # --- items ---

    def push(self, item: Item, ticket: Ticket, now: float) -> None:
        """An item waits from now on."""
        self._newest = ticket.needs
        last = ticket.place.index if ticket.place else 0
        self._group_of[item] = self._add(_Group(ticket, [item], ticket.needs, now, last))

    def remove(self, item: Item) -> None:
        """An item has left, from its queue or its edge; harmless for one that is not there. Its
        place is free when all of its group have left."""
        number = self._group_of.pop(item, None)
        if number is None:
            return
        group = self._groups[number]
        group.items.remove(item)
        if not group.items:
            self._drop(number)

    def wrote(self, item: Item, num_tokens: int, now: float) -> None:
        """An item has so many tokens more; a group that passes its prediction is predicted anew."""
        number = self._group_of[item]
        group = self._groups[number]
        group.written = min(group.written + num_tokens, _MAX_WRITTEN)
        runs = group.edge is not None and number in group.edge.groups
        if runs and group.written > group.needs.tokens:
            tokens = self._core.recount(number, group.written, now)
            group.needs = replace(group.needs, tokens=tokens)

    def pull(self, now: float) -> tuple[str, list[list[Item]]] | None:
        """The next edge with the groups it is to be given, now counted there; None if there is
        nothing to be given to anybody now."""
        if self._may_group and 0 < self._core.num_free < self._core.num_waiting:
            self._merge_waiting()
        pulled = self._core.pull(now)
        if pulled is None:
            return None
        name = self._names[pulled[0]]
        edge = self._edges[name]
        for number in pulled[1]:
            group = self._groups[number]
            group.edge = edge
            edge.groups.add(number)
            self._no_longer_waits(number, group)
        return name, [list(self._groups[number].items) for number in pulled[1]]

    @property
    def num_waiting(self) -> int:
        """Groups in the lists."""
        return self._core.num_waiting

    def queue_depths(self) -> dict[str, int]:
        """Groups that wait, by list: the longest predicted length in it; "all" where there is one
        queue."""
        names = ("32", "64", "128", "256", "longer") if self._has_lists else ("all",)
        return dict(zip(names, self._core.waiting_jobs, strict=False))

    @property
    def num_held(self) -> int:
        """Times that a group was left waiting though an edge had a place for it."""
        return self._core.held

    def backlog_s(self, now: float) -> float:
        """Predicted seconds until an edge could begin what is pushed now; infinite without one."""
        return self._core.backlog_s(now)

    def done_s(self, name: str, pace: Pace, now: float) -> float:
        """Predicted seconds until what waits is done, if an edge goes on at `pace` when what it
        runs has ended: its part of the waiting tokens, then one job like the newest."""
        edge, newest = self._edges[name], self._newest
        own = edge.slots / pace.step(edge.slots)
        waiting = sum(self._core.waiting_tokens)
        share_s = waiting / (own + self._core.others_tokens_per_s(edge.number))
        job_s = newest.prompt_tokens * pace.read_s + newest.tokens * pace.step(edge.slots)
        return self._core.running_s(edge.number, now) + share_s + pace.link_s + job_s

    def self_check(self) -> None:
        """Recompute every table. Raises AssertionError or RuntimeError where one differs."""
        self._core.self_check()
        members = {item: n for n, group in self._groups.items() for item in group.items}
        assert members == self._group_of
        waiting = [group for group in self._groups.values() if group.edge is None]
        assert len(waiting) == self._core.num_waiting
        for name, edge in self._edges.items():
            held = {n for n, group in self._groups.items() if group.edge is edge}
            assert held == edge.groups, name
            assert len(held) == self.num_in_flight(name), name
        counts = Counter(group.ticket.request for group in self._groups.values())
        assert counts == {name: known.num_groups for name, known in self._requests.items()}
        assert set(self._waiting) <= {group.ticket.request for group in waiting}

    # --- grouping ---

    def _merge_waiting(self) -> None:
        """Group what has come to wait since the last time."""
        grown, self._grown = list(self._grown), {}
        for request in grown:
            for run in self._runs(self._waiting.get(request, ())):
                self._merge_run(run)

    def _runs(self, numbers: Iterable[int]) -> list[list[int]]:
        """Rows of two and more groups that follow each other in the answer, by one kind."""
        runs: list[list[int]] = []
        last_of: dict[Hashable, list[int]] = {}  # kind -> its latest row
        for number in sorted(numbers, key=lambda number: self._groups[number].last):
            group = self._groups[number]
            kind = group.ticket.place.kind if group.ticket.place else None
            run = last_of.get(kind)
            if run is None or not self._groups[run[-1]].is_followed_by(group):
                run = last_of[kind] = []
                runs.append(run)
            run.append(number)
        return [run for run in runs if len(run) > 1]

    def _merge_run(self, run: Sequence[int]) -> None:
        """Merge neighbours as the prediction says, for the request's fair share of all places."""
        pace, core = self._pace(), self._core
        share = max(1, core.num_slots // len(self._requests))
        num_edges = len(self._edges)
        step_s = [pace.step(ceil((k + 1) / num_edges)) for k in range(min(share, len(run)))]
        needs = self._groups[run[0]].needs
        shared = needs.prompt_tokens - needs.tail_tokens
        busy = 1.0 - core.num_free / core.num_slots  # an idle edge's reading costs nobody
        read_s = pace.read_s * (needs.tail_tokens + busy * shared)
        tokens = [self._groups[number].needs.tokens for number in run]
        for start, end in self._batcher.group(tokens, step_s, read_s):
            if end - start > 1:
                self._merge(run[start:end])

    def _merge(self, run: Sequence[int]) -> None:
        groups = [self._groups[number] for number in run]
        tails = [group.needs.tail_tokens for group in groups]
        needs = JobNeeds(
            groups[0].needs.prompt_tokens + sum(tails[1:]),
            sum(tails),
            sum(group.needs.tokens for group in groups),
            max(group.needs.kv_tokens for group in groups),
        )
        merged = replace(
            groups[0],
            items=[item for group in groups for item in group.items],
            needs=needs,
            since=min(group.since for group in groups),
            last=groups[-1].last,
        )
        number = self._add(merged)
        self._group_of.update(dict.fromkeys(merged.items, number))
        for old in run:
            self._drop(old)
        self._grown.pop(merged.ticket.request, None)

    def _pace(self) -> Pace:
        """The mean over all edges."""
        if self._mean_pace is None:
            self._num_changes = 0
            paces = [edge.pace for edge in self._edges.values()]
            sizes = sorted({batch for pace in paces for batch, _ in pace.step_s})
            self._mean_pace = Pace(
                sum(pace.link_s for pace in paces) / len(paces),
                sum(pace.read_s for pace in paces) / len(paces),
                tuple((b, sum(pace.step(b) for pace in paces) / len(paces)) for b in sizes),
            )
        return self._mean_pace

    # --- tables ---

    def _add(self, group: _Group[Item]) -> int:
        number, self._next = self._next, self._next + 1
        request = self._requests.setdefault(group.ticket.request, _Request(number))
        request.num_groups += 1
        self._core.add(
            number,
            request.number,
            prompt_tokens=group.needs.prompt_tokens,
            tail_tokens=group.needs.tail_tokens,
            tokens=group.needs.tokens,
            kv_tokens=group.needs.kv_tokens,
            now=group.since,
            goes_first=group.ticket.goes_first,
            avoid=[self._edges[name].number for name in group.ticket.avoid if name in self._edges],
        )
        self._groups[number] = group
        if group.ticket.place is not None:
            self._waiting.setdefault(group.ticket.request, set()).add(number)
            self._grown[group.ticket.request] = None
        return number

    def _drop(self, number: int) -> None:
        """Forget a group wherever it is."""
        group = self._groups.pop(number)
        self._core.remove(number)
        self._no_longer_waits(number, group)
        if group.edge is not None:
            group.edge.groups.discard(number)
        request = self._requests[group.ticket.request]
        request.num_groups -= 1
        if not request.num_groups:
            del self._requests[group.ticket.request]

    def _no_longer_waits(self, number: int, group: _Group[Item]) -> None:
        waiting = self._waiting.get(group.ticket.request, set())
        waiting.discard(number)
        if not waiting:
            self._waiting.pop(group.ticket.request, None)
            self._grown.pop(group.ticket.request, None)
