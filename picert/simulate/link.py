"""SimulatedLink: both ends of the link to all edges: delay, loss, and edges that come and go.

A message arrives half a round trip after it was sent, in order. A lost one is sent again by the
transport, so it and what follows it come later; nothing of a live connection is lost for good. A
crash is noticed as the real link notices it: no new jobs after `probation_beats` missed beats, the
edge is gone after `dead_beats`, or when its next process registers.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from picert.config import LinkConfig
from picert.errors import EdgeLost
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
    ToCloud,
)
from picert.transport.events import PeerEvent, PeerJoined, PeerLeft, PeerMessage
from picert.transport.liveness import State

_RESEND_S = 0.2  # a transport waits for so long, and a round trip, before it sends again
Job = ExpandJob | AnswerJob | Cancel
Receive = Callable[[int, Callable[[], None]], None]
Take = Callable[[Job], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Network:
    """What lies between cloud and edges."""

    rtt_s: float = 0.0
    loss: float = 0.0  # share of messages that are sent again

    def delay_s(self, rng: random.Random) -> float:
        """Of one message."""
        seconds = self.rtt_s / 2
        while self.loss and rng.random() < self.loss:
            seconds += _RESEND_S + self.rtt_s
        return seconds


class _Wire:
    """One direction of a connection: what was sent later does not arrive earlier."""

    def __init__(self, network: Network, rng: random.Random) -> None:
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._rng = rng
        self._last_at = 0.0
        self._under_way: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_cut = False

    def carry(self, arrive: Callable[[Any], None], message: Any) -> None:
        """Call `arrive` with it when it is there, unless the wire is cut until then."""
        due = self._loop.time() + self._network.delay_s(self._rng)
        self._last_at = max(due, self._last_at)
        self._under_way.append((arrive, message))
        self._loop.call_at(self._last_at, self._arrive)

    def cut(self) -> None:
        """Nothing arrives any more."""
        self._is_cut = True

    def _arrive(self) -> None:
        """The first that is under way; timers of one moment go off in any order."""
        arrive, message = self._under_way.popleft()
        if not self._is_cut:
            arrive(message)


class Connection:
    """An edge's end: where its worker sends to. It ends with the edge's process."""

    def __init__(self, hello: Hello, link: SimulatedLink, wires: tuple[_Wire, _Wire]) -> None:
        self.hello = hello
        self.state: State = "alive"
        self._link = link
        self._to_edge, self._to_cloud = wires
        self._take: Take | None = None
        self._taking: set[asyncio.Task[None]] = set()

    def join(self, take: Take) -> None:
        """The edge registers: `take` gets its jobs."""
        self._take = take
        self._link.register(self)

    async def send(self, message: ToCloud) -> None:
        """Queue one message for the cloud."""
        assert isinstance(message, TextDelta | Expansion | Failure)
        self._to_cloud.carry(self._link.arrive, PeerMessage(self.hello.name, message))

    def deliver(self, message: Job) -> None:
        """Queue one message for the edge."""
        self._to_edge.carry(self._begin, message)

    def cut(self) -> None:
        """The edge's process is gone."""
        self._to_edge.cut()
        self._to_cloud.cut()

    def _begin(self, message: Job) -> None:
        assert self._take is not None
        task = asyncio.ensure_future(self._take(message))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)


class SimulatedLink:
    """The cloud's end. Everything on one event loop."""

    def __init__(
        self, network: Network, rng: random.Random, config: LinkConfig, receive: Receive
    ) -> None:
        """`receive` does with a message of so many tokens what it costs the cloud."""
        self._receive = receive
        self._network = network
        self._rng = rng
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[PeerEvent] = asyncio.Queue()
        self._connections: dict[str, Connection] = {}
        self._beat = Heartbeat(
            sent_at=0.0, num_running=0, num_waiting=0, kv_usage=0.0, rtt_s=network.rtt_s
        )

    def connect(self, hello: Hello) -> Connection:
        """A way to the cloud, for an edge that will register."""
        wires = (_Wire(self._network, self._rng), _Wire(self._network, self._rng))
        return Connection(hello, self, wires)

    def register(self, connection: Connection) -> None:
        """An edge is here; one of its name that was thought to be here is gone by that."""
        name = connection.hello.name
        if name in self._connections:
            self._leave(self._connections[name], "it has joined anew")
        self._connections[name] = connection
        self.put(PeerJoined(name, connection.hello))

    def crash(self, connection: Connection) -> None:
        """An edge's process ends without a word."""
        connection.cut()
        beat_s, later = self._config.heartbeat_s, self._loop.call_later
        later(self._config.probation_beats * beat_s, self._doubt, connection)
        later(self._config.dead_beats * beat_s, self._leave, connection, "no sign of life")

    def arrive(self, event: PeerMessage) -> None:
        """A message reaches the cloud's process."""
        num_tokens = event.message.num_tokens if isinstance(event.message, TextDelta) else 0
        self._receive(num_tokens, lambda: self.put(event))

    def put(self, event: PeerEvent) -> None:
        """What happened reaches the pool."""
        self._events.put_nowait(event)

    # --- what the pool asks ---

    async def events(self) -> AsyncIterator[PeerEvent]:
        """What happens, for ever."""
        while True:
            yield await self._events.get()

    async def send(self, name: str, message: Job | LoadModel) -> None:
        """Queue one message for an edge. Raises EdgeLost for one that is not registered."""
        assert not isinstance(message, LoadModel), "simulated edges have no spare models"
        connection = self._connections.get(name)
        if connection is None:
            raise EdgeLost(f"edge {name} is not connected")
        connection.deliver(message)

    def state(self, name: str) -> State:
        """What is known of an edge."""
        connection = self._connections.get(name)
        return connection.state if connection else "dead"

    def load(self, name: str) -> Heartbeat | None:
        """A beat with the round trip."""
        return self._beat if name in self._connections else None

    def _doubt(self, connection: Connection) -> None:
        connection.state = "probation"

    def _leave(self, connection: Connection, reason: str) -> None:
        name = connection.hello.name
        if self._connections.get(name) is connection:
            del self._connections[name]
            self.put(PeerLeft(name, reason))
