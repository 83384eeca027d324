"""Seat: one registered edge, as the pool accounts for it: its models, their speeds, its link."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from picert.cloud.breaker import Breaker
from picert.messages import (
    AnswerJob,
    Cancel,
    ExpandJob,
    Expansion,
    Heartbeat,
    Hello,
    LoadModel,
    ModelInfo,
)
from picert.pice.dispatch import Pace
from picert.pice.profile import SpeedProfile
from picert.pice.switching import ModelSwitch
from picert.transport.events import PeerEvent
from picert.transport.liveness import State

_PROMPT_TOKENS = 256  # of a prompt whose mean speed stands for all


class EdgeLink(Protocol):
    """What the pool needs of the cloud's end of the link."""

    def events(self) -> AsyncIterator[PeerEvent]:
        """What happens to edges and jobs, until the link closes."""

    async def send(self, name: str, message: ExpandJob | AnswerJob | Cancel | LoadModel) -> None:
        """Queue a message for an edge. Raises EdgeLost."""

    def state(self, name: str) -> State:
        """Whether an edge lives."""

    def load(self, name: str) -> Heartbeat | None:
        """Its latest beat; None before the first."""


@dataclass(frozen=True, slots=True)
class EdgeView:
    """One registered edge, for whoever looks at the pool."""

    name: str
    is_available: bool  # alive, not on probation, not draining
    slots: int  # jobs it runs at once
    num_in_flight: int  # jobs it was given and has not finished


@dataclass(slots=True)
class Seat:
    """One registration; an edge that joins again gets a new one.

    Each model has its even share of the edge's places, and one model is given jobs at a time.
    """

    hello: Hello
    breaker: Breaker
    is_draining: bool = False
    was_available: bool = True  # what the dispatcher was told last
    model: str = ""  # that it runs for jobs that name none
    switch: ModelSwitch | None = None  # where its models take turns
    loading: str | None = None  # that it was asked to load
    loading_until: float = 0.0  # when that is given up
    speeds: dict[str, SpeedProfile] = field(default_factory=dict)  # of each model, spare ones too
    tried: set[str] = field(default_factory=set)  # models whose speed here is known

    def __post_init__(self) -> None:
        curves = {curve.model: curve for curve in self.hello.curves}
        for model in self.infos:
            curve = curves.get(model.name)
            self.speeds[model.name] = SpeedProfile.of_curve(curve) if curve else SpeedProfile()
            if curve:
                self.tried.add(model.name)
        held = {model.name for model in self.hello.models}
        self.model = [name for name in self.by_size if name in held][-1]

    @property
    def infos(self) -> list[ModelInfo]:
        """Its models, those that it holds first."""
        return [*self.hello.models, *(spare.info for spare in self.hello.spares)]

    @property
    def by_size(self) -> list[str]:
        """Their names, smallest first."""
        return [m.name for m in sorted(self.infos, key=lambda model: model.num_parameters)]

    def inherit(self, before: Seat) -> None:
        """It is the same process as `before`: what its texts taught of its models still holds."""
        known = {(model.name, model.fingerprint) for model in before.infos}
        for model in self.infos:
            if (model.name, model.fingerprint) in known and model.name in before.tried:
                self.speeds[model.name] = before.speeds[model.name]
                self.tried.add(model.name)

    def load_s(self, model: str) -> float:
        """Seconds until it could write with `model`; 0 for one that it holds."""
        return next((s.load_s for s in self.hello.spares if s.info.name == model), 0.0)

    def holds(self, model: str) -> bool:
        """It is loaded there."""
        return any(held.name == model for held in self.hello.models)

    @property
    def slots(self) -> int:
        """Jobs that one of its models runs at once."""
        return max(1, self.hello.slots // len(self.hello.models))

    @property
    def kv_tokens(self) -> int:
        """Tokens that one of its models keeps."""
        return self.hello.kv_tokens // len(self.hello.models)

    @property
    def speed(self) -> SpeedProfile:
        """Of the model that it runs."""
        return self.speeds[self.model]

    def link_s(self, link: EdgeLink) -> float:
        """Seconds to the edge and back, by its last heartbeat; 0 before the first."""
        beat = link.load(self.hello.name)
        return beat.rtt_s or 0.0 if beat else 0.0

    def pace(self, link_s: float) -> Pace:
        """Its speed as the dispatcher takes it."""
        return self.pace_with(self.model, link_s)

    def pace_with(self, model: str, link_s: float) -> Pace:
        """The same with another of its models."""
        return pace_of(self.speeds[model], self.slots, link_s)

    def describe(self) -> dict[str, Any]:
        """For those who look after edges."""
        return {
            "draining": self.is_draining,
            "breaker": self.breaker.state,
            "version": self.hello.picert_version,
            "models": [model.name for model in self.hello.models],
            "model": self.model,
            "spares": [spare.info.name for spare in self.hello.spares],
            "loading": self.loading,
            "slots": self.slots,
        }

    @property
    def is_tried(self) -> bool:
        """The speed of each of its models is known."""
        return self.tried.issuperset(self.speeds)

    def hope_for(self, *others: Seat) -> bool:
        """Expect of models that were never tried here what other edges reach with the same
        weights, where that is better than what was expected: else they would never be tried.
        Returns whether anything changed."""
        if self.is_tried:
            return False
        known = [
            (model.fingerprint, other.speeds[model.name])
            for other in others
            for model in other.infos
            if model.name in other.tried
        ]
        has_changed = False
        for model in self.infos:
            for fingerprint, speed in known if model.name not in self.tried else ():
                is_same, hoped = fingerprint == model.fingerprint, self.speeds[model.name]
                if is_same and speed.decode_seconds(1) < hoped.decode_seconds(1):
                    self.speeds[model.name] = copy.deepcopy(speed)
                    has_changed = True
        return has_changed

    def observe(self, expansion: Expansion, model: str, num_running: int) -> None:
        """An expansion of `model` ended, of `num_running` at once."""
        speed = self.speeds.get(model)
        if speed is not None and expansion.finish_reason in ("stop", "length"):
            self.tried.add(model)
            read = expansion.prompt_tokens - expansion.cached_tokens
            written, seconds = expansion.completion_tokens, expansion.seconds
            speed.observe(read, written, seconds, max(1, num_running))


def pace_of(speed: SpeedProfile, slots: int, link_s: float) -> Pace:
    """A profile as plain numbers for an edge with so many places."""
    sizes = sorted({slots, *(1 << n for n in range(slots.bit_length()))})
    return Pace(
        link_s,
        speed.prefill_seconds(_PROMPT_TOKENS) / _PROMPT_TOKENS,
        tuple((batch, speed.decode_seconds(1, batch)) for batch in sizes),
    )
