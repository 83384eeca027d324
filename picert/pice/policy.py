"""plan(): direct, edge-only, or a sketch of so many tokens; a pure function that gives its reasons.

A forced route is kept where it can be. Else, in mode pice, every way to serve the question is
predicted and priced (options.py) and the cheapest is taken; the other modes are the baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from picert.config import PolicyConfig
from picert.messages import Route
from picert.pice.length import TOKENS_PER_POINT, LengthForecast
from picert.pice.objective import (
    NEW_PROMPT_TOKENS,
    Candidate,
    CloudState,
    EdgeState,
    Outlook,
    least_loaded,
    share_of_edges_s,
)
from picert.pice.options import Options, Question
from picert.pice.profile import SpeedProfile, predicted_seconds
from picert.pice.quality import QualityTable
from picert.pice.router import Suitability, is_one_fact
from picert.pice.wording import counted

PlannedRoute = Literal["direct", "edge_only", "sketch"]
Writer = Literal["edges", "cloud"]  # who expands a sketch

_MIN_LINE_TOKENS = 10  # budget of a sketch line with its number
_MIN_EXPANSION_TOKENS = 16  # less than a sentence is no expansion
_EXPANSION_ROOM = 1.6  # budget over expected length, so that most expansions end by themselves
_PROMPT_OVERHEAD = 400  # tokens of rules and examples around the question at an edge
_MAX_JOBS_PER_SLOT = 4  # edges with more work than this waiting are overrun
_DEADLINE_FACTOR = 4.0  # over the predicted time


@dataclass(frozen=True, slots=True)
class PlanInput:
    """What the policy knows of a request."""

    question: str  # the last user message; "" if the last message is not the user's
    suitability: Suitability
    length: LengthForecast
    prompt_tokens: int  # of the whole conversation, by the cloud's tokenizer
    max_tokens: int  # the user's limit on the visible answer
    route: Route = "auto"
    sketch_tokens: int | None = None
    points: int | None = None  # items that the question asks for
    obstacles: tuple[str, ...] = ()  # why this request, whatever its question, should not be split
    only_direct: str | None = None  # why nobody but the cloud can answer it, whole


@dataclass(frozen=True, slots=True)
class Load:
    """What is going on at the moment of planning."""

    num_edges: int  # alive and not on probation
    edge_slots: int = 0  # of those edges, taken and free
    num_edge_jobs: int = 0  # running at edges, waiting for one, or promised by open sketches
    num_edge_running: int = 0  # of those, at edges
    num_cloud_running: int = 0
    edge_context: int | None = None  # smallest context among those edges, in tokens; None: unknown
    edges: tuple[EdgeState, ...] = ()  # the least loaded of those; empty: all alike, speed unknown
    edges_share: float = 1.0  # that these have of what all edges write
    cloud_slots: int = 16  # texts that the cloud writes at once
    cloud_wait_s: float = 0.0  # until a new text of the cloud gets its first step
    price: float = 0.0  # of a cloud second, see price.py
    edge_price: float = 0.0  # of a second of all edges, in the same way
    expansion_tokens: float = 96.0  # that expansions turn out to have, whatever room they are given


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request will be served. Without a sketch its numbers are 0."""

    route: PlannedRoute
    reasons: tuple[str, ...]
    sketch_tokens: int = 0  # budget of the sketch
    max_segments: int = 0
    expansion_tokens: int = 0  # budget of each expansion
    writer: Writer = "edges"
    width: int = 1  # candidates of each segment
    max_repairs: int = 1000  # segments that the cloud may rewrite because they are not good enough
    level: float = 0.0  # sketch tokens over answer tokens
    candidates: tuple[Candidate, ...] = ()  # what the choice was made from, in mode pice

    @property
    def num_jobs(self) -> int:
        """That edges will be given for the sketch."""
        return self.max_segments * self.width if self.writer == "edges" else 0


def plan(
    features: PlanInput,
    load: Load,
    profile: SpeedProfile,
    config: PolicyConfig,
    quality: QualityTable | None = None,
) -> Plan:
    """Choose the route; `profile` is the cloud's speed. A forced route is kept unless no edge can
    serve it; the last reason says what decided."""
    if features.route == "direct":
        return Plan("direct", ("the request asks for a direct answer",))
    if features.only_direct is not None:
        return Plan("direct", (f"direct: {features.only_direct}",))
    if features.route == "edge_only":
        return _plan_edge_only(features, load, "the request asks for an edge")
    facts = _facts(features, profile)
    if config.mode == "pice":
        options = _options(features, load, profile, config, quality or QualityTable())
        if features.route == "sketch":
            return _plan_forced_sketch(features, load, config, facts, options)
        return _plan_cheapest(features, load, config, facts, options)
    if features.route == "auto":
        return _plan_baseline(features, load, config, facts)
    return _plan_sketch(features, load, config, facts)


def _options(
    features: PlanInput,
    load: Load,
    profile: SpeedProfile,
    config: PolicyConfig,
    quality: QualityTable,
) -> Options:
    """The ways to serve this request now."""
    length = LengthForecast(
        min(features.length.p50, features.max_tokens), min(features.length.p90, features.max_tokens)
    )
    question = Question(
        features.suitability, length, features.points, is_one_fact(features.question)
    )
    cloud = CloudState(profile, load.num_cloud_running, load.cloud_slots, load.cloud_wait_s)
    outlook = Outlook(
        cloud=cloud,
        edges=least_loaded(_edge_states(load)),
        prompt_tokens=features.prompt_tokens,
        is_eager=config.uses("eager_dispatch"),
        price=load.price,
        edge_price=load.edge_price,
        expansion_tokens=load.expansion_tokens,
        edges_share=load.edges_share,
    )
    return Options(question, outlook, config, quality)


def _edge_states(load: Load) -> list[EdgeState]:
    """The edges that are looked at, with their share of the jobs that wait for one."""
    edges = load.edges
    if not edges and load.num_edges > 0 and load.edge_slots > 0:
        slots = max(1, load.edge_slots // load.num_edges)
        edges = (EdgeState(slots, 0, SpeedProfile()),) * load.num_edges
    num_waiting = max(0, load.num_edge_jobs - load.num_edge_running)
    each = num_waiting / max(1, load.edge_slots)
    return [
        replace(edge, num_in_flight=edge.num_in_flight + round(each * edge.slots)) for edge in edges
    ]


def _plan_cheapest(
    features: PlanInput,
    load: Load,
    config: PolicyConfig,
    facts: tuple[str, ...],
    options: Options,
) -> Plan:
    """The candidate with the least cost among those that nothing speaks against."""
    hindrance = _no_question(features) or _hindrance(features, config)
    against_sketch = hindrance or _no_edge(load, _most_tokens(features, config))
    needed = features.prompt_tokens + features.max_tokens
    against_edge = (features.obstacles or (None,))[0] or _no_edge(load, needed)
    candidates = (
        options.direct(),
        options.edge_only(against_edge),
        *options.sketches(against_sketch),
    )
    best = options.best(candidates)
    facts = (*facts, f"price {options.price:.2f}, of edges {options.edge_price:.2f}")
    if best.route == "direct":
        why = against_sketch or _why_direct(candidates)
        return Plan("direct", (*facts, f"direct: {why}"), candidates=candidates)
    if best.route == "edge_only":
        return Plan("edge_only", (*facts, f"edge_only: {best}"), candidates=candidates)
    chosen = _sketch_plan(features, config, best, options)
    reason = f"sketch: {best}, over {counted(load.num_edges, 'edge')}"
    return replace(chosen, reasons=(*facts, reason), candidates=candidates)


def _plan_forced_sketch(
    features: PlanInput,
    load: Load,
    config: PolicyConfig,
    facts: tuple[str, ...],
    options: Options,
) -> Plan:
    """The best sketch there is, whatever it costs: the request asks for one."""
    smallest = _budgets(features, config, config.min_segments)
    no_room = f"max_tokens {features.max_tokens} leaves no room for a sketch"
    against = (
        _no_question(features)
        or (no_room if smallest.num_points < config.min_segments else None)
        or _no_edge(load, _most_tokens(features, config))
    )
    if against:
        return Plan("direct", (*facts, f"direct: {against}"))
    candidates: tuple[Candidate, ...]
    if features.sketch_tokens:
        candidates = (options.sketch_of(features.sketch_tokens),)
    else:
        candidates = tuple(options.sketches()) or (options.smallest_sketch(),)
    able = [candidate for candidate in candidates if candidate.against is None]
    best = options.widened(min(able or candidates, key=lambda c: c.cost))
    chosen = _sketch_plan(features, config, best, options)
    reason = f"the request asks for a sketch; {best}"
    return replace(chosen, reasons=(*facts, reason), candidates=candidates)


def _sketch_plan(
    features: PlanInput, config: PolicyConfig, best: Candidate, options: Options
) -> Plan:
    budget = _budgets(features, config, best.num_points)
    return Plan(
        "sketch",
        (),
        *(budget.sketch_tokens, budget.num_points, budget.expansion_tokens),
        width=best.width,
        max_repairs=options.max_repairs(best),
        level=best.level,
    )


def _why_direct(candidates: Sequence[Candidate]) -> str:
    sketches = [c for c in candidates if c.route == "sketch"]
    if not sketches:
        return "the answer is too short for a sketch"
    best = min(sketches, key=lambda c: (c.against is not None, c.cost))
    if best.against:
        return f"no sketch will do, of the best {best.against}"
    return f"a sketch would cost more ({best})"


def _plan_baseline(
    features: PlanInput, load: Load, config: PolicyConfig, facts: tuple[str, ...]
) -> Plan:
    """The route of a request that leaves it to the policy, in a mode other than pice."""
    if config.mode == "direct":
        return Plan("direct", (*facts, "mode direct: the cloud answers everything"))
    if config.mode == "edge_only":
        return _plan_edge_only(features, load, "mode edge_only: edges answer everything")
    if config.mode == "router":
        score, least = features.suitability.score, config.min_suitability
        if score >= least:
            return _plan_edge_only(
                features, load, f"mode router: suitability is at least {least:g}"
            )
        return Plan("direct", (*facts, f"mode router: suitability is under {least:g}"))
    against = _against_sketch(features, load, config)
    if against:
        return Plan("direct", (*facts, f"direct: {against}"))
    return _plan_sketch(features, load, config, facts)


def edge_backlog_s(load: Load) -> float:
    """Seconds of all edges together that their jobs are expected to take. 0 without edges."""
    each = share_of_edges_s(_edge_states(load), NEW_PROMPT_TOKENS, load.expansion_tokens)
    return load.num_edge_jobs * each * load.edges_share


def job_deadline_s(
    profile: SpeedProfile, prompt_tokens: int, max_tokens: int, batch: int, config: PolicyConfig
) -> float:
    """Seconds after which an edge that has not finished a job is given up: a multiple of the
    predicted time, with `config.job_timeout_s` as the floor."""
    predicted = predicted_seconds(profile, prompt_tokens + _PROMPT_OVERHEAD, max_tokens, batch)
    return max(config.job_timeout_s, _DEADLINE_FACTOR * predicted)


def _facts(features: PlanInput, profile: SpeedProfile) -> tuple[str, ...]:
    """What the choice rests on, for whoever reads the reasons."""
    score, length = features.suitability, features.length
    seconds = predicted_seconds(profile, features.prompt_tokens, length.p50)
    return (
        f"suitability {score.score:.2f} ({score.question_class}: {'; '.join(score.reasons)})",
        f"predicted answer {length.p50} tokens (p90 {length.p90}), {seconds:.1f} s direct",
    )


def _against_sketch(features: PlanInput, load: Load, config: PolicyConfig) -> str | None:
    """The first reason why a baseline does not sketch an unforced request, if there is one."""
    hindrance = _hindrance(features, config)
    if hindrance:
        return hindrance
    if features.suitability.score < config.min_suitability:
        return f"suitability is under {config.min_suitability:g}"
    if config.mode != "sot" and load.num_edge_jobs >= _MAX_JOBS_PER_SLOT * load.edge_slots > 0:
        return f"{load.num_edge_jobs} jobs wait for {counted(load.edge_slots, 'edge slot')}"
    return None


def _hindrance(features: PlanInput, config: PolicyConfig) -> str | None:
    """Why no sketch could serve an unforced request, whatever the load."""
    expected = min(features.length.p50, features.max_tokens)
    points = features.points or 0
    if features.obstacles:
        return features.obstacles[0]
    if expected < config.min_answer_tokens:
        return f"{expected} tokens are under {config.min_answer_tokens}, too few to share"
    if points > config.max_segments:
        return f"{points} points are asked for, a sketch has at most {config.max_segments}"
    return None


def _no_question(features: PlanInput) -> str | None:
    is_there = features.question.strip()
    return None if is_there else "the last message is not a question of the user's"


def _plan_edge_only(features: PlanInput, load: Load, why: str) -> Plan:
    needed = features.prompt_tokens + features.max_tokens
    against = _no_edge(load, needed)
    if against:
        return Plan("direct", (f"direct: {against}",))
    return Plan("edge_only", (why,))


def _plan_sketch(
    features: PlanInput, load: Load, config: PolicyConfig, facts: tuple[str, ...]
) -> Plan:
    """A baseline's sketch of the fixed level, or a direct answer where there is no room for one or
    no edge."""
    against = _no_question(features)
    if against:
        return Plan("direct", (*facts, f"direct: {against}"))
    expected = min(max(features.length.p50, config.min_answer_tokens), features.max_tokens)
    wanted = features.points or max(config.min_segments + 1, round(expected / TOKENS_PER_POINT))
    budget = _budgets(features, config, wanted)
    if budget.num_points < config.min_segments:
        limit = features.max_tokens
        return Plan("direct", (*facts, f"direct: max_tokens {limit} leaves no room for a sketch"))
    writer: Writer = "cloud" if config.mode == "sot" else "edges"
    against = _no_edge(load, _most_tokens(features, config)) if writer == "edges" else None
    if against:
        return Plan("direct", (*facts, f"direct: {against}"))
    chosen = "the request asks for a sketch" if features.route == "sketch" else "sketch: it suits"
    where = f"over {counted(load.num_edges, 'edge')}" if writer == "edges" else "by the cloud"
    numbers = (budget.sketch_tokens, budget.num_points, budget.expansion_tokens)
    reason = (
        f"{chosen}; {budget.sketch_tokens} sketch tokens, at most {budget.num_points} points of "
        f"{budget.expansion_tokens} tokens {where}"
    )
    return Plan("sketch", (*facts, reason), *numbers, writer=writer, level=config.sketch_ratio)


@dataclass(frozen=True, slots=True)
class _Budget:
    """What a sketch may hold, together within the user's limit on the answer."""

    num_points: int  # fewer than `min_segments` where that limit is too small
    sketch_tokens: int
    expansion_tokens: int  # of each


def _budgets(features: PlanInput, config: PolicyConfig, wanted: int) -> _Budget:
    """Of a sketch of `wanted` points, as far as there is room for them. Most texts end before their
    budget: together these may pass the user's limit, where the answer is cut as a direct one is."""
    expected = min(max(features.length.p50, config.min_answer_tokens), features.max_tokens)
    sketch_tokens = features.sketch_tokens or max(
        round(config.sketch_ratio * expected), _MIN_LINE_TOKENS * min(wanted, config.max_segments)
    )
    sketch_tokens = min(sketch_tokens, features.max_tokens // 2)
    room = features.max_tokens - sketch_tokens
    num_points = min(
        wanted,
        config.max_segments,
        max(sketch_tokens // _MIN_LINE_TOKENS, config.min_segments),
        room // _MIN_EXPANSION_TOKENS,
    )
    share = min(expected, room) / max(1, num_points)
    expansion_tokens = min(config.max_expansion_tokens, max(1, round(_EXPANSION_ROOM * share)))
    return _Budget(num_points, sketch_tokens, expansion_tokens)


def _most_tokens(features: PlanInput, config: PolicyConfig) -> int:
    """That an edge may have to hold for one segment."""
    sketch = features.sketch_tokens or _MIN_LINE_TOKENS * config.max_segments
    return features.prompt_tokens + sketch + config.max_expansion_tokens + _PROMPT_OVERHEAD


def _no_edge(load: Load, needed_tokens: int) -> str | None:
    """Why no edge could take a prompt and text of `needed_tokens`, if so."""
    if load.num_edges < 1:
        return "no edge is connected"
    if load.edge_context is not None and needed_tokens > load.edge_context:
        return f"{needed_tokens} tokens are over the edges' context of {load.edge_context}"
    return None
