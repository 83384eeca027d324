"""plan(): direct, edge-only, or a sketch of so many tokens; a pure function that gives its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from picert.config import PolicyConfig
from picert.messages import Request, Route
from picert.pice.length import LengthForecast, LengthPredictor
from picert.pice.profile import SpeedProfile
from picert.pice.router import Suitability

PlannedRoute = Literal["direct", "edge_only", "sketch"]


@dataclass(frozen=True, slots=True)
class PlanInput:
    """What the policy knows of a request."""

    question: str  # the last user message
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
    edge_context: int | None = (
        None  # smallest context among those edges, in tokens; None: not known
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request will be served. The three numbers are 0 on the other routes."""

    route: PlannedRoute
    reasons: tuple[str, ...]
    sketch_tokens: int = 0  # budget of the sketch
    max_segments: int = 0
    expansion_tokens: int = 0  # budget of each expansion


def read_request(request: Request, prompt_tokens: int, lengths: LengthPredictor) -> PlanInput:
    """Everything `plan` wants to know of `request`."""
    raise NotImplementedError


def plan(features: PlanInput, load: Load, profile: SpeedProfile, config: PolicyConfig) -> Plan:
    """Choose the route. A forced route is kept unless no edge can serve it; the last reason says what decided."""
    raise NotImplementedError


def job_deadline_s(
    profile: SpeedProfile, prompt_tokens: int, max_tokens: int, batch: int, config: PolicyConfig
) -> float:
    """Seconds after which an edge that has not finished a job is given up: a multiple of the predicted time, with
    `config.job_timeout_s` as the floor."""
    raise NotImplementedError
