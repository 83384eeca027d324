"""Predicted seconds, cloud seconds and quality of each way to serve a question, and what they cost
together. Pure functions over numbers; policy.py says which ways there are.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from picert.pice.profile import SpeedProfile

NEW_PROMPT_TOKENS = 24  # that a segment's prompt adds to the question: its point and its heading
MAX_EDGES = 8  # looked at: the least loaded; a question has no more segments than that
CandidateRoute = Literal["direct", "edge_only", "sketch"]


@dataclass(frozen=True, slots=True)
class EdgeState:
    """One edge that could take jobs."""

    slots: int  # sequences it decodes at once
    num_in_flight: int
    speed: SpeedProfile
    link_s: float = 0.0  # to it and back
    model: str = ""  # that would write


@dataclass(frozen=True, slots=True)
class CloudState:
    """The cloud's engine at this moment."""

    speed: SpeedProfile
    num_running: int = 0
    slots: int = 16
    wait_s: float = 0.0  # until a new sequence gets its first step

    def write_seconds(self, prompt_tokens: int, tokens: float) -> float:
        """Until `tokens` are written, from the start of a text's first step, beside what runs."""
        batch = min(self.num_running, self.slots - 1) + 1
        whole = self.speed.decode_seconds(1, batch) * tokens
        return self.speed.prefill_seconds(prompt_tokens) + whole

    def idle_seconds(self, prompt_tokens: int, tokens: float) -> float:
        """The same on an idle cloud."""
        one = self.speed.decode_seconds(1, 1) * tokens
        return self.speed.prefill_seconds(prompt_tokens) + one

    def share_seconds(self, prompt_tokens: int, tokens: float) -> float:
        """Of the cloud's own time, were it full: what the text takes from others. Always of a full
        batch, so that a plan's claim does not shrink while the cloud fills."""
        share = self.speed.decode_seconds(1, self.slots) / self.slots * tokens
        return self.speed.prefill_seconds(prompt_tokens) + share


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve a question: predicted, priced, and why it cannot be taken, if so."""

    route: CandidateRoute
    seconds: float  # T, until the answer is complete
    cloud_seconds: float  # C
    quality: float  # Q, 1 is a direct answer's
    cost: float = 0.0
    level: float = 1.0  # sketch tokens over answer tokens
    num_points: int = 0
    width: int = 1
    against: str | None = None
    edge_seconds: float = 0.0  # E, of all edges together, were they full

    def __str__(self) -> str:
        what: str = self.route
        if self.route == "sketch":
            what += f" at {self.level:g}, {self.num_points} points, width {self.width}"
        return (
            f"{what}: T {self.seconds:.2f} s, C {self.cloud_seconds:.2f} s, "
            f"E {self.edge_seconds:.2f} s, Q {self.quality:.2f}, "
            f"cost {self.cost:.3f}" + (f"; {self.against}" if self.against else "")
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """How seconds, cloud seconds and quality weigh against each other."""

    price: float  # of a cloud second, in seconds of waiting
    slo_s: float
    w_latency: float
    w_quality: float
    edge_price: float = 0.0  # of a second of all edges

    def cost(
        self, seconds: float, cloud_seconds: float, quality: float, edge_seconds: float = 0.0
    ) -> float:
        """(C * price + E * edge price + T * w_latency) / slo - Q * w_quality: what is to be made
        small."""
        taken = cloud_seconds * self.price + edge_seconds * self.edge_price
        waiting = taken + seconds * self.w_latency
        return waiting / self.slo_s - quality * self.w_quality


@dataclass(frozen=True, slots=True)
class Outlook:
    """The moment as one question sees it."""

    cloud: CloudState
    edges: tuple[EdgeState, ...]
    prompt_tokens: int  # of the question; rules and examples around it are in the prefix caches
    is_eager: bool = True
    price: float = 0.0  # of a cloud second, in seconds of a user's waiting
    edge_price: float = 0.0  # of a second of all edges, in the same
    expansion_tokens: float = 96.0  # that expansions turn out to have, whatever room they are given
    edges_share: float = 1.0  # that `edges` have of what all edges write

    @property
    def num_idle_slots(self) -> int:
        """Jobs that could start at once."""
        return sum(max(0, edge.slots - edge.num_in_flight) for edge in self.edges)

    def direct_seconds(self, tokens: float) -> float:
        """T of a direct answer of `tokens`."""
        return self.cloud.wait_s + self.cloud.write_seconds(self.prompt_tokens, tokens)

    def edge_only_seconds(self, tokens: float) -> float:
        """T of a whole answer by the edge that would be done first; infinite without edges."""
        return last_end_s(self.edges, [0.0], self.prompt_tokens, tokens)

    def edge_share_s(self, prompt_tokens: int, tokens: float) -> float:
        """Seconds of all edges together, were they full, that one job takes from others."""
        return self.edges_share * share_of_edges_s(self.edges, prompt_tokens, tokens)

    def sketch_seconds(
        self, num_lines: int, line_tokens: float, expansion_tokens: float, width: int = 1
    ) -> float:
        """T of a sketch: the cloud's part, and the last of `width` expansions of each line.

        With eager dispatch the clock of a line's expansions starts when the line is written.
        """
        cloud = self.cloud
        written = [
            cloud.wait_s + cloud.write_seconds(self.prompt_tokens, line_tokens * n)
            for n in range(1, num_lines + 1)
        ]
        ready = written if self.is_eager else [written[-1]] * num_lines
        jobs = [at for at in ready for _ in range(width)]
        new_tokens = self.prompt_tokens + NEW_PROMPT_TOKENS
        return max(written[-1], last_end_s(self.edges, jobs, new_tokens, expansion_tokens))


def share_of_edges_s(edges: Sequence[EdgeState], prompt_tokens: int, tokens: float) -> float:
    """Seconds of these edges together, were they full, that one job takes from others. 0 without
    edges."""
    rate = sum(1.0 / _share_s(edge, prompt_tokens, tokens) for edge in edges)
    return 1.0 / rate if edges else 0.0


def _share_s(edge: EdgeState, prompt_tokens: int, tokens: float) -> float:
    writing_s = edge.speed.decode_seconds(1, edge.slots) / edge.slots * tokens
    return edge.speed.prefill_seconds(prompt_tokens) + writing_s


def last_end_s(
    edges: Sequence[EdgeState], ready: Sequence[float], prompt_tokens: int, tokens: float
) -> float:
    """When the last of the jobs that are ready at these times is done, each given in turn to the
    edge that would be done first. Infinite without edges."""
    courses = [_Course(edge, edge.speed.prefill_seconds(prompt_tokens)) for edge in edges]
    last = 0.0 if courses else math.inf
    for at in ready if courses else ():
        end, first = min((course.end_s(at, tokens), n) for n, course in enumerate(courses))
        courses[first].take(at, end)
        last = max(last, end)
    return last


class _Course:
    """What one edge will have done, job by job: it reads one prompt after another, and writes what
    it holds together, in as many rounds as its slots make of it."""

    def __init__(self, edge: EdgeState, reading_s: float) -> None:
        self._edge = edge
        self._reading_s = reading_s  # of one prompt
        self._read_until = 0.0
        self._ends: list[float] = []  # ascending

    def end_s(self, at: float, tokens: float) -> float:
        """When one more job of `tokens`, ready at `at`, would be done."""
        edge = self._edge
        held = edge.num_in_flight + len(self._ends) - bisect_right(self._ends, at) + 1
        rounds = -(-held // edge.slots)
        step = edge.speed.decode_seconds(1, min(held, edge.slots))
        read = max(at, self._read_until) + self._reading_s
        return read + edge.link_s + rounds * tokens * step

    def take(self, at: float, end: float) -> None:
        """That job is its own now."""
        self._read_until = max(at, self._read_until) + self._reading_s
        insort(self._ends, end)


def least_loaded(edges: Sequence[EdgeState]) -> tuple[EdgeState, ...]:
    """The edges worth looking at for one question."""
    able = [edge for edge in edges if edge.slots > 0]
    return tuple(sorted(able, key=_load_of)[:MAX_EDGES])


def _load_of(edge: EdgeState) -> tuple[float, float]:
    return edge.num_in_flight / edge.slots, edge.speed.decode_seconds(1)
