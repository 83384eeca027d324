"""The cloud-edge link: ServerLink (ROUTER, at the cloud) and PeerLink (DEALER, at an edge).

Both are started and closed by their owner, run their own tasks in between, and hand everything that happened to the
owner through one bounded iterator, `events()`. Registration, heartbeats and liveness are the link's business; what a
job is, and which are in flight, is not. SKELETON: signatures are final, bodies follow.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable

import zmq.asyncio

from picert.config import LinkConfig
from picert.messages import AnswerJob, Cancel, ExpandJob, Hello, ToCloud
from picert.transport.events import EdgeEvent, Load, Peer, PeerEvent
from picert.transport.liveness import State

Clock = Callable[[], float]


class ServerLink:
    """The cloud's end. Edges are known by the name in their Hello; a name is registered at most once."""

    rejected: int  # messages dropped because they were not ours, ever

    def __init__(
        self,
        config: LinkConfig,
        *,
        clock: Clock = time.monotonic,
        context: zmq.asyncio.Context | None = None,
    ) -> None: ...

    async def start(self) -> None:
        """Bind `config.address` and serve. Raises ConfigError (port in use, address not allowed)."""
        raise NotImplementedError

    async def close(self, reason: str = "the cloud stops") -> None:
        """Tell every edge (Drain), end all tasks and close the socket; `events()` ends. Harmless when repeated."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The bound address, with the real port where port 0 was asked for."""
        raise NotImplementedError

    @property
    def peers(self) -> dict[str, Peer]:
        """Snapshot of the registered edges by name, draining and probation ones included."""
        raise NotImplementedError

    def state(self, name: str) -> State:
        """"alive" and "probation" (no new jobs, please) for registered edges, "dead" for all other names."""
        raise NotImplementedError

    async def send(self, name: str, message: ExpandJob | AnswerJob | Cancel) -> None:
        """Queue one message for an edge; never waits.

        Raises EdgeLost (not registered, or its connection is gone; PeerLeft follows by itself), QueueFull (it does not
        read fast enough), ProtocolError (the message is over `max_frame_bytes`).
        """
        raise NotImplementedError

    def events(self) -> AsyncIterator[PeerEvent]:
        """What happened, in order; for one consumer. Ends after `close`.

        For each name: PeerJoined, then PeerMessage and at most one PeerDraining, then exactly one PeerLeft. After
        PeerLeft nothing of that registration is reported. A consumer that does not read makes the link stop reading.
        """
        raise NotImplementedError


class PeerLink:
    """An edge's end. Registers, beats, and registers again after any loss, until it is closed."""

    rtt_s: float | None  # of the latest echoed beat
    rejected: int

    def __init__(
        self,
        config: LinkConfig,
        hello: Hello,
        load: Callable[[], Load],
        *,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
        context: zmq.asyncio.Context | None = None,
    ) -> None:
        """`hello` may leave `instance` empty: the link fills it in. `load` is asked before each beat."""

    async def start(self) -> None:
        """Begin to register in the background; returns at once. Raises ConfigError (address not allowed)."""
        raise NotImplementedError

    async def wait_linked(self, timeout_s: float | None = None) -> None:
        """Until the cloud has welcomed this edge. Raises Unavailable, saying why not yet, after `timeout_s`."""
        raise NotImplementedError

    @property
    def is_linked(self) -> bool:
        """The cloud has welcomed this edge and its beats come back."""
        raise NotImplementedError

    async def send(self, message: ToCloud) -> None:
        """Queue one message for the cloud, waiting while the queue is full.

        Raises EdgeLost while the link is down (the cloud has written off this edge's jobs, so nothing is kept).
        """
        raise NotImplementedError

    async def drain(self, reason: str) -> None:
        """Tell the cloud to give nothing new; running jobs may still send. Does nothing while the link is down."""
        raise NotImplementedError

    async def close(self, reason: str = "the edge stops") -> None:
        """Tell the cloud that this edge has left, end all tasks, close the socket; `events()` ends."""
        raise NotImplementedError

    def events(self) -> AsyncIterator[EdgeEvent]:
        """Jobs, cancels and losses of the link, in order; for one consumer. Ends after `close`."""
        raise NotImplementedError
