"""plan(): direct, edge-only, or a sketch of so many tokens; a pure function that gives its reasons.

What it does today: a forced route is kept where it can be; else a question is sketched that suits
it, is long enough to pay, fits the user's limit and finds edges that are not overrun. `edge_only`
is never chosen by itself, because nothing yet measures what a small model answers well.

A sketch shows the edges the question alone. So a conversation with earlier turns, or with a system
message that says more than "you are a helpful assistant", is answered directly unless the route is
forced; the same holds for sampling options that a text of several writers cannot honour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from picert.config import PolicyConfig
from picert.messages import ChatMessage, Request, Route
from picert.pice.length import LengthForecast, LengthPredictor, requested_points
from picert.pice.profile import SpeedProfile, predicted_seconds
from picert.pice.router import Suitability, suitability
from picert.pice.wording import counted

PlannedRoute = Literal["direct", "edge_only", "sketch"]
Writer = Literal["edges", "cloud"]  # who expands a sketch

_TOKENS_PER_POINT = 45  # of a direct answer that one sketch line stands for
_MIN_LINE_TOKENS = 10  # a sketch line with its number
_MIN_EXPANSION_TOKENS = 16  # less than a sentence is no expansion
_EXPANSION_ROOM = 1.6  # budget over expected length, so that most expansions end by themselves
_PROMPT_OVERHEAD = 400  # tokens of rules and examples around the question at an edge
_MAX_JOBS_PER_SLOT = 4  # edges with more work than this waiting are overrun
_DEADLINE_FACTOR = 4.0  # over the predicted time
_NEUTRAL_SYSTEM = re.compile(
    r"(?:you are [\w ,]{1,40}, (?:created|made|trained|built) by [\w ]{1,40}\. )?"
    r"you are (?:an? )?(?:(?:very|helpful|friendly|honest|harmless|useful|polite|ai|and),? )*"
    r"assistant[.!]?"
)


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


@dataclass(frozen=True, slots=True)
class Load:
    """What is going on at the moment of planning."""

    num_edges: int  # alive and not on probation
    edge_slots: int = 0  # of those edges, taken and free
    num_edge_jobs: int = 0  # running at edges or waiting for one
    num_cloud_running: int = 0
    edge_context: int | None = None  # smallest context among those edges, in tokens; None: unknown


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request will be served. Without a sketch its numbers are 0."""

    route: PlannedRoute
    reasons: tuple[str, ...]
    sketch_tokens: int = 0  # budget of the sketch
    max_segments: int = 0
    expansion_tokens: int = 0  # budget of each expansion
    writer: Writer = "edges"


def read_request(request: Request, prompt_tokens: int, lengths: LengthPredictor) -> PlanInput:
    """Everything `plan` wants to know of `request`."""
    last = request.messages[-1] if request.messages else None
    question = last.content if last is not None and last.role == "user" else ""
    return PlanInput(
        question=question,
        suitability=suitability(question),
        length=lengths.predict(question),
        prompt_tokens=prompt_tokens,
        max_tokens=request.sampling.max_tokens,
        route=request.route,
        sketch_tokens=request.sketch_tokens,
        points=requested_points(question),
        obstacles=_obstacles(request),
    )


def plan(features: PlanInput, load: Load, profile: SpeedProfile, config: PolicyConfig) -> Plan:
    """Choose the route. A forced route is kept unless no edge can serve it; the last reason says
    what decided."""
    if features.route == "direct":
        return Plan("direct", ("the request asks for a direct answer",))
    if features.route == "edge_only":
        return _plan_edge_only(features, load, "the request asks for an edge")
    facts = _facts(features, profile)
    if features.route == "auto":
        return _plan_by_mode(features, load, config, facts)
    return _plan_sketch(features, load, config, facts)


def _plan_by_mode(
    features: PlanInput, load: Load, config: PolicyConfig, facts: tuple[str, ...]
) -> Plan:
    """The route of a request that leaves it to the policy: pice's, or that of a baseline."""
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
        return Plan("direct", (*facts, against))
    return _plan_sketch(features, load, config, facts)


def job_deadline_s(
    profile: SpeedProfile, prompt_tokens: int, max_tokens: int, batch: int, config: PolicyConfig
) -> float:
    """Seconds after which an edge that has not finished a job is given up: a multiple of the
    predicted time, with `config.job_timeout_s` as the floor."""
    predicted = predicted_seconds(profile, prompt_tokens + _PROMPT_OVERHEAD, max_tokens, batch)
    return max(config.job_timeout_s, _DEADLINE_FACTOR * predicted)


def _obstacles(request: Request) -> tuple[str, ...]:
    """What of a request would be lost if several models wrote its answer from the question."""
    sampling = request.sampling
    system = [m for m in request.messages if m.role == "system"]
    checks = (
        (len(request.messages) > len(system) + 1, "the conversation has earlier turns"),
        (any(not _is_neutral(m) for m in system), "the system message asks for more than help"),
        (bool(sampling.stop or sampling.stop_token_ids), "stop strings or tokens are set"),
        (sampling.logprobs is not None, "log-probabilities are asked for"),
        (bool(sampling.logit_bias), "logit_bias is set"),
        (sampling.min_tokens > 0 or sampling.ignore_eos, "a minimum length is set"),
    )
    return tuple(reason for holds, reason in checks if holds)


def _is_neutral(message: ChatMessage) -> bool:
    text = " ".join(message.content.casefold().split())
    return not text or _NEUTRAL_SYSTEM.fullmatch(text) is not None


def _facts(features: PlanInput, profile: SpeedProfile) -> tuple[str, ...]:
    """What the choice rests on, for whoever reads the reasons."""
    score, length = features.suitability, features.length
    seconds = predicted_seconds(profile, features.prompt_tokens, length.p50)
    return (
        f"suitability {score.score:.2f} ({score.question_class}: {'; '.join(score.reasons)})",
        f"predicted answer {length.p50} tokens (p90 {length.p90}), {seconds:.1f} s direct",
    )


def _against_sketch(features: PlanInput, load: Load, config: PolicyConfig) -> str | None:
    """The first reason why an unforced request is not sketched, if there is one."""
    expected = min(features.length.p50, features.max_tokens)
    points = features.points or 0
    if features.obstacles:
        return f"direct: {features.obstacles[0]}"
    if features.suitability.score < config.min_suitability:
        return f"direct: suitability is under {config.min_suitability:g}"
    if expected < config.min_answer_tokens:
        return f"direct: {expected} tokens are under {config.min_answer_tokens}, too few to share"
    if points > config.max_segments:
        return f"direct: {points} points are asked for, a sketch has at most {config.max_segments}"
    if config.mode != "sot" and load.num_edge_jobs >= _MAX_JOBS_PER_SLOT * load.edge_slots > 0:
        return f"direct: {load.num_edge_jobs} jobs wait for {counted(load.edge_slots, 'edge slot')}"
    return None


def _plan_edge_only(features: PlanInput, load: Load, why: str) -> Plan:
    needed = features.prompt_tokens + features.max_tokens
    against = _no_edge(load, needed)
    if against:
        return Plan("direct", (against,))
    return Plan("edge_only", (why,))


def _plan_sketch(
    features: PlanInput, load: Load, config: PolicyConfig, facts: tuple[str, ...]
) -> Plan:
    """The budgets of a sketch, or a direct answer where there is no room for one or no edge."""
    if not features.question.strip():
        return Plan("direct", (*facts, "direct: the last message is not a question of the user's"))
    num_points, sketch_tokens, expansion_tokens = _budgets(features, config)
    if num_points < config.min_segments:
        limit = features.max_tokens
        return Plan("direct", (*facts, f"direct: max_tokens {limit} leaves no room for a sketch"))
    writer: Writer = "cloud" if config.mode == "sot" else "edges"
    needed = features.prompt_tokens + sketch_tokens + expansion_tokens + _PROMPT_OVERHEAD
    against = _no_edge(load, needed) if writer == "edges" else None
    if against:
        return Plan("direct", (*facts, against))
    chosen = "the request asks for a sketch" if features.route == "sketch" else "sketch: it suits"
    where = f"over {counted(load.num_edges, 'edge')}" if writer == "edges" else "by the cloud"
    reason = (
        f"{chosen}; {sketch_tokens} sketch tokens, at most {num_points} points of "
        f"{expansion_tokens} tokens {where}"
    )
    return Plan("sketch", (*facts, reason), sketch_tokens, num_points, expansion_tokens, writer)


def _budgets(features: PlanInput, config: PolicyConfig) -> tuple[int, int, int]:
    """Points, sketch tokens and tokens per expansion, together within the user's limit; fewer than
    `min_segments` points where the limit is too small."""
    expected = min(max(features.length.p50, config.min_answer_tokens), features.max_tokens)
    wanted = features.points or max(config.min_segments + 1, round(expected / _TOKENS_PER_POINT))
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
    share = round(_EXPANSION_ROOM * expected / max(1, num_points))
    expansion_tokens = min(config.max_expansion_tokens, room // max(1, num_points), max(32, share))
    return num_points, sketch_tokens, expansion_tokens


def _no_edge(load: Load, needed_tokens: int) -> str | None:
    """Why no edge could take a prompt and text of `needed_tokens`, if so."""
    if load.num_edges < 1:
        return "direct: no edge is connected"
    if load.edge_context is not None and needed_tokens > load.edge_context:
        return f"direct: {needed_tokens} tokens are over the edges' context of {load.edge_context}"
    return None
