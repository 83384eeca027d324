"""What the two ends of the link report to their owners. Plain values: no socket, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from picert.messages import (
    AnswerJob,
    Cancel,
    ExpandJob,
    Expansion,
    Failure,
    Heartbeat,
    Hello,
    LoadModel,
    TextDelta,
)
from picert.transport.liveness import State


@dataclass(frozen=True, slots=True)
class Peer:
    """A registered edge as the cloud sees it now; a snapshot, not a live object."""

    name: str
    hello: Hello
    state: State
    is_draining: bool
    load: Heartbeat | None  # the latest beat; None before the first


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """An edge is registered and may be given jobs."""

    name: str
    hello: Hello


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """A registered edge has said Hello anew: it holds other models, or takes jobs again. What it
    held is lost, as if it had left and joined."""

    name: str
    hello: Hello


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """An edge is gone, with every job it held; the name may join again, as a new registration."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerDraining:
    """An edge takes no new jobs but still finishes those it holds; PeerLeft follows."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerMessage:
    """A registered edge's word on one of its jobs."""

    name: str
    message: TextDelta | Expansion | Failure


PeerEvent = PeerJoined | PeerChanged | PeerLeft | PeerDraining | PeerMessage


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an edge is; goes into its next heartbeat."""

    num_running: int
    num_waiting: int
    kv_usage: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The cloud no longer counts on this edge: what it runs is worthless and should be cancelled.

    The link registers again by itself; nothing else is to be done.
    """

    reason: str


EdgeEvent = ExpandJob | AnswerJob | Cancel | LoadModel | LinkLost
