"""ServerLink: the cloud's end of the link. It owns its socket, the registry of edges and two tasks.

The *reader* takes one message after the other; the *watcher* judges silence every half beat. What
either finds goes into one bounded inbox. While that is full the reader does not read, ZeroMQ's
queues fill up and the edges wait: a slow owner costs time, not memory, and the watcher judges
nobody in the meantime.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import zmq

from picert.config import LinkConfig
from picert.errors import EdgeLost, PicertError, ProtocolError, QueueFull
from picert.log import get_logger
from picert.messages import (
    AnswerJob,
    Cancel,
    Drain,
    ExpandJob,
    Expansion,
    Failure,
    Heartbeat,
    Hello,
    LinkMessage,
    LoadModel,
    Probe,
    TextDelta,
    Welcome,
)
from picert.patience import within
from picert.transport import codec, sockets
from picert.transport.events import (
    Peer,
    PeerChanged,
    PeerDraining,
    PeerEvent,
    PeerJoined,
    PeerLeft,
    PeerMessage,
)
from picert.transport.gate import Gate
from picert.transport.inbox import Inbox
from picert.transport.keys import ANY_NAME, AllowList, default_edges_file, read_pair
from picert.transport.liveness import Clock, Liveness, State
from picert.transport.registry import Entry, Registry

logger = get_logger(__name__)
_GOODBYE_S = 0.5
_MAX_REASON = 200  # characters of a peer's words that go into our log


class ServerLink:
    """The cloud's end. Edges are known by the name in their Hello, and each name is unique."""

    def __init__(
        self,
        config: LinkConfig,
        *,
        picert_version: str = "",
        clock: Clock = time.monotonic,
    ) -> None:
        """`picert_version` is told to edges. Raises ConfigError for beats that make no sense."""
        self.rejected = 0  # messages dropped because they were not ours, ever
        self._config = config
        self._welcome = Welcome(picert_version, config.heartbeat_s)
        self._liveness = Liveness(
            config.heartbeat_s, config.probation_beats, config.dead_beats, clock
        )
        self._registry = Registry(self._liveness)
        self._inbox: Inbox[PeerEvent] = Inbox(config.high_water_mark)
        self._gate = _gate_of(config)
        self._context: sockets.Context | None = None
        self._socket: sockets.Socket | None = None
        self._address = config.address
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closing = False
        self._all_left = asyncio.Event()

    async def start(self) -> None:
        """Bind `config.address` and serve; a link that was closed is not started again.

        Raises ConfigError (port in use, address not allowed).
        """
        config = self._config
        keys = None if config.link_key is None else read_pair(Path(config.link_key))
        self._context = sockets.Context()
        try:
            if self._gate is not None:
                self._gate.open(self._context)
            socket = sockets.bind_router(self._context, config, keys)
        except PicertError:
            await self._end_context()
            raise
        self._socket = socket
        self._address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._tasks = [
            asyncio.create_task(self._read(socket), name="server link reader"),
            asyncio.create_task(self._watch(), name="server link watcher"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    async def close(self, reason: str = "shutdown") -> None:
        """Tell every edge (Drain), end all tasks and close the socket; `events()` ends.

        Harmless when repeated.
        """
        tasks, self._tasks = self._tasks, []
        if tasks:
            await self._say_goodbye(reason)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._inbox.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            await self._end_context()

    @property
    def address(self) -> str:
        """The bound address, with the real port where port 0 was asked for."""
        return self._address

    @property
    def peers(self) -> dict[str, Peer]:
        """Snapshot of the registered edges by name, draining and probation ones included."""
        return self._registry.peers

    def state(self, name: str) -> State:
        """Registered edges are "alive" or on "probation" (no new jobs, please), others "dead"."""
        return self._liveness.state(name)

    def load(self, name: str) -> Heartbeat | None:
        """An edge's latest beat; None before the first, and for a name that is not registered."""
        entry = self._registry.of_name(name)
        return entry.load if entry else None

    async def send(self, name: str, message: ExpandJob | AnswerJob | Cancel | LoadModel) -> None:
        """Queue one message for an edge; never waits.

        Raises EdgeLost (not registered, or its connection is gone; PeerLeft follows by itself),
        QueueFull (it does not read fast enough), ProtocolError (the message is over
        `max_frame_bytes`).
        """
        entry = self._registry.of_name(name)
        if entry is None:
            raise EdgeLost(f"edge {name} is not registered")
        try:
            self._post(entry.route, message)
        except zmq.Again:
            limit = self._config.high_water_mark
            raise QueueFull(f"edge {name} does not read: {limit} messages wait for it") from None
        except zmq.ZMQError as error:
            raise EdgeLost(f"the connection to edge {name} is gone: {error.strerror}") from None

    def events(self) -> AsyncIterator[PeerEvent]:
        """What happened, in order; for one consumer. Ends after `close`.

        For each name: PeerJoined, then PeerMessage, PeerChanged, and at most one PeerDraining until
        the next of these, then exactly one PeerLeft (at `close`: at most one). After PeerLeft
        nothing of that registration is reported.
        """
        return self._inbox

    @property
    def num_refused(self) -> int:
        """Connections whose key was not allowed, ever."""
        return self._gate.num_refused if self._gate is not None else 0

    # --- the reader -------------------------------------------------------------------------------

    async def _read(self, socket: sockets.Socket) -> None:
        while True:
            if self._gate is None:
                route, *frames = await socket.recv_multipart()
                await self._receive(route, frames, b"")
                continue
            sealed = await socket.recv_multipart(copy=False)
            key = self._gate.sender(sealed)
            if key is None:
                self._reject("its key was revoked")
                continue
            route, *frames = [frame.bytes for frame in sealed]
            await self._receive(route, frames, key)

    async def _receive(self, route: bytes, frames: list[bytes], key: bytes) -> None:
        entry = self._registry.of_route(route)
        try:
            message = codec.decode(frames, self._config.max_frame_bytes)
        except ProtocolError as error:
            self._reject(error.message)
            if entry is None:  # maybe an edge of another version: let it say so in its log
                self._refuse(route, "protocol_error", error.message)
            return
        if isinstance(message, Hello):
            await self._register(route, message, key)
        elif isinstance(message, Probe):
            self._answer(route, Probe(self._welcome.picert_version, time.time()))
        elif entry is None:
            self._refuse(route, "unknown_edge", "say Hello first")
        else:
            await self._from_peer(entry, message)

    async def _register(self, route: bytes, hello: Hello, key: bytes) -> None:
        if self._is_closing:
            self._refuse(route, "draining", "this cloud stops")
            return
        refusal = self._wrong_name(hello, key) or self._registry.refusal(route, hello)
        if refusal:
            self._refuse(route, *refusal)
            return
        known = self._registry.of_name(hello.name)
        if known is not None and known.route == route:
            await self._greet_again(known, hello)
            return
        if known is not None and not known.is_same_process(hello) and self._probe(known):
            message = f"an edge named {hello.name} is connected: give this one another --name"
            self._refuse(route, "duplicate_name", message)
            return
        if known is not None:
            await self._leave(known, "it connected again")
        if self._answer(route, self._welcome):
            self._registry.add(route, hello, key)
            await self._inbox.put(PeerJoined(hello.name, hello))

    async def _greet_again(self, known: Entry, hello: Hello) -> None:
        """It had not heard us yet, or it has changed."""
        self._liveness.beat(hello.name)
        if not self._answer(known.route, self._welcome):
            return
        if known.is_draining or hello != known.hello:
            self._registry.replace(known, hello)
            await self._inbox.put(PeerChanged(hello.name, hello))

    def _wrong_name(self, hello: Hello, key: bytes) -> tuple[str, str] | None:
        """Refuse a key that belongs to an edge of another name."""
        wanted = ANY_NAME if self._gate is None else self._gate.name_of(key)
        if wanted in (ANY_NAME, hello.name):
            return None
        return "wrong_name", f"this key is of edge {wanted}: start it with --name {wanted}"

    async def _from_peer(self, entry: Entry, message: LinkMessage) -> None:
        self._liveness.beat(entry.name)
        if isinstance(message, Heartbeat):
            entry.load = message
            self._answer(entry.route, message)
        elif isinstance(message, TextDelta | Expansion | Failure):
            await self._inbox.put(PeerMessage(entry.name, message))
        elif isinstance(message, Drain):
            await self._drain(entry, message)
        else:
            self._reject(f"{type(message).__name__} goes from cloud to edge only")

    async def _drain(self, entry: Entry, message: Drain) -> None:
        if message.has_left:
            await self._leave(entry, message.reason[:_MAX_REASON] or "it stopped")
        elif not entry.is_draining:
            entry.is_draining = True
            await self._inbox.put(PeerDraining(entry.name, message.reason[:_MAX_REASON]))

    # --- the watcher ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat_s / 2)
            if not self._inbox.is_full:
                await self._judge()
                continue
            for entry in self._registry.entries:  # nobody reads: judge nobody, and say we live
                self._probe(entry)

    async def _judge(self) -> None:
        dead = set(self._liveness.tick())
        for entry in self._registry.entries:
            if self._gate is not None and not self._gate.may_speak(entry.key):
                await self._leave(entry, "its key was revoked")
            elif entry.name in dead:
                beats = self._config.dead_beats
                await self._leave(entry, f"no sign of life for {beats} heartbeats")
            elif self._is_late(entry) and not self._probe(entry):
                await self._leave(entry, "its connection is gone")

    def _is_late(self, entry: Entry) -> bool:
        """A beat is overdue. False for a registration that ended while the watcher waited."""
        if self._registry.of_name(entry.name) is not entry:
            return False
        return self._liveness.silence_s(entry.name) > 1.5 * self._config.heartbeat_s

    def _probe(self, entry: Entry) -> bool:
        """Whether its connection stands: another Welcome is harmless, a dead route refuses it."""
        return self._answer(entry.route, self._welcome)

    async def _leave(self, entry: Entry, reason: str) -> None:
        if self._registry.remove(entry):
            if self._is_closing and not len(self._registry):
                self._all_left.set()
            await self._inbox.put(PeerLeft(entry.name, reason))

    # --- sending ----------------------------------------------------------------------------------

    def _post(self, route: bytes, message: LinkMessage) -> None:
        """Queue a message, or raise zmq.Again (full) or another ZMQError (route gone), at once."""
        if self._socket is None:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        frames = codec.encode(message, self._config.max_frame_bytes)
        sockets.send_now(self._socket, [route, *frames])

    def _answer(self, route: bytes, message: LinkMessage) -> bool:
        """Send what may get lost; False if the route is gone."""
        try:
            self._post(route, message)
        except zmq.Again:
            return True
        except zmq.ZMQError:
            return False
        return True

    def _refuse(self, route: bytes, code: str, message: str) -> None:
        self._answer(route, Failure(request_id="", attempt=0, code=code, message=message))

    def _reject(self, why: str) -> None:
        self.rejected += 1
        logger.debug("message dropped: %s", why)

    # --- the end ----------------------------------------------------------------------------------

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """A task that ends by itself has met a fault of ours: tell the log and the owner."""
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s failed: %s", task.get_name(), error, exc_info=error)
            self._inbox.close(PicertError(f"the link failed: {error}"))

    async def _say_goodbye(self, reason: str) -> None:
        """Send Drain and wait a moment for the edges to leave.

        NOTE: ZeroMQ may drop what a peer has not read yet when its connection is closed.
        """
        self._is_closing = True
        for entry in self._registry.entries:
            self._answer(entry.route, Drain(reason))
        if len(self._registry):
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_GOODBYE_S, self._all_left.wait())
        for entry in self._registry.entries:
            self._registry.remove(entry)

    async def _end_context(self) -> None:
        """In another thread, as it waits for lingering last words."""
        if self._gate is not None:
            await self._gate.close()
        context, self._context = self._context, None
        if context is not None:
            await asyncio.to_thread(context.term)


def _gate_of(config: LinkConfig) -> Gate | None:
    """The gate of an encrypted link."""
    if config.link_key is None:
        return None
    path = default_edges_file() if config.edges_file is None else Path(config.edges_file)
    return Gate(AllowList(path))
