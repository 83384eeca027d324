"""PeerLink: an edge's end of the link. One *session* after the other, until it is closed.

A session is one socket and two tasks: the *talker* says Hello until it is welcomed and beats from
then on, the *reader* takes what the cloud says. Whichever finds that the registration is lost ends
the session; the owner gets LinkLost, and the next session begins with a fresh socket after a delay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import msgspec
import zmq

from picert.config import LinkConfig
from picert.errors import EdgeLost, PicertError, ProtocolError, Unavailable
from picert.log import get_logger
from picert.messages import (
    AnswerJob,
    Cancel,
    Drain,
    ExpandJob,
    Failure,
    Heartbeat,
    Hello,
    LinkMessage,
    LoadModel,
    ToCloud,
    Welcome,
)
from picert.patience import within
from picert.transport import codec, sockets
from picert.transport.backoff import Backoff
from picert.transport.events import EdgeEvent, LinkLost, Load
from picert.transport.handshake import NO_WELCOME, NOTHING_THERE, Handshakes
from picert.transport.inbox import Inbox
from picert.transport.keys import PeerKeys, peer_keys
from picert.transport.liveness import Clock, Liveness

logger = get_logger(__name__)
_CLOUD = "cloud"
_MAX_REASON = 200  # characters of a peer's words that go into our log


class PeerLink:
    """An edge's end.

    Registers, beats, and registers again after any loss, until it drains or is closed.
    """

    def __init__(
        self,
        config: LinkConfig,
        hello: Hello,
        load: Callable[[], Load],
        *,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """An empty `hello.instance` is filled in by the link; `load` is asked before each beat."""
        self.rejected = 0  # messages dropped because they were not ours, ever
        self.rtt_s: float | None = None  # of the latest echoed beat
        self._config = config
        self._hello = msgspec.structs.replace(
            hello, instance=hello.instance or secrets.token_hex(8)
        )
        self._said: Hello | None = None  # of this session, as the cloud has heard it
        self._pause: str | None = None  # why nothing new is wanted
        self._load = load
        self._clock = clock
        self._backoff = Backoff(rng or random.Random())
        self._liveness = self._new_liveness(config.heartbeat_s)
        self._inbox: Inbox[EdgeEvent] = Inbox(config.high_water_mark)
        self._keys: PeerKeys | None = None
        self._context: sockets.Context | None = None
        self._socket: sockets.Socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._linked = asyncio.Event()
        self._heartbeat_s = config.heartbeat_s  # the cloud's word replaces it
        self._last_sent_at = 0.0
        self._obstacle = NOTHING_THERE
        self._is_draining = False

    async def start(self) -> None:
        """Begin to register in the background; returns at once.

        Raises ConfigError (address not allowed).
        """
        self._keys = peer_keys(self._config)
        sockets.allowed_address(self._config.address, is_encrypted=self._keys is not None)
        self._context = sockets.Context()
        self._task = asyncio.create_task(self._run(self._context), name="peer link")
        self._task.add_done_callback(self._on_task_done)

    async def close(self, reason: str = "the edge stops") -> None:
        """Tell the cloud that this edge has left, end all tasks; `events()` ends."""
        if self._linked.is_set():
            self._try_send(Drain(reason, has_left=True))
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._inbox.close()
        await self._end_context()

    async def wait_linked(self, timeout_s: float | None = None) -> None:
        """Until the cloud has welcomed this edge.

        Raises Unavailable, saying why not yet, after `timeout_s`.
        """
        try:
            await within(timeout_s, self._linked.wait())
        except asyncio.TimeoutError:
            raise Unavailable(
                f"no welcome from {self._config.address} in {timeout_s:g} s: {self._obstacle}"
            ) from None

    @property
    def is_linked(self) -> bool:
        """The cloud has welcomed this edge and its beats come back."""
        return self._linked.is_set()

    async def send(self, message: ToCloud) -> None:
        """Queue one message for the cloud, waiting while the queue is full.

        Raises EdgeLost while the link is down (the cloud has written off this edge's jobs, so
        nothing is kept), and ProtocolError if the message is over `max_frame_bytes`.
        """
        socket = self._socket
        if socket is None or not self._linked.is_set():
            raise EdgeLost(f"the link to {self._config.address} is down")
        frames = codec.encode(message, self._config.max_frame_bytes)
        try:
            sockets.send_now(socket, frames)
        except zmq.Again:
            await self._send_later(socket, frames)
        except zmq.ZMQError:
            raise EdgeLost(f"the link to {self._config.address} was lost") from None

    async def _send_later(self, socket: sockets.Socket, frames: list[bytes]) -> None:
        """As soon as there is room."""
        sent = asyncio.ensure_future(socket.send_multipart(frames))
        try:
            await asyncio.wait(
                [sent]
            )  # closing the socket cancels `sent`, which must not cancel us
        finally:
            sent.cancel()  # if we are cancelled ourselves; else it is done
        if sent.cancelled() or sent.exception():
            raise EdgeLost(f"the link to {self._config.address} was lost")

    async def drain(self, reason: str) -> None:
        """Tell the cloud to give nothing new; running jobs may still send.

        A link that is lost now stays down.
        """
        self._is_draining = True
        if self._linked.is_set():
            with contextlib.suppress(EdgeLost):
                await self.send(Drain(reason))

    async def pause(self, reason: str) -> None:
        """Tell the cloud to give nothing new until `introduce`; running jobs may still send. A link
        that is lost meanwhile comes back paused."""
        self._pause = reason
        if self._linked.is_set():
            with contextlib.suppress(EdgeLost):
                await self.send(Drain(reason))

    async def introduce(self, hello: Hello) -> None:
        """Register anew, with other models; ends a pause. What the cloud still counts on is lost:
        it gives these jobs to other edges."""
        self._pause = None
        self._hello = msgspec.structs.replace(hello, instance=self._hello.instance)
        if self._linked.is_set():
            self._said = self._hello
            with contextlib.suppress(EdgeLost):
                await self.send(self._hello)

    def events(self) -> AsyncIterator[EdgeEvent]:
        """Jobs, cancels and losses of the link, in order; for one consumer. Ends after `close`."""
        return self._inbox

    # --- sessions ---------------------------------------------------------------------------------

    async def _run(self, context: sockets.Context) -> None:
        while not self._is_draining:
            reason, was_linked = await self._session(context)
            if was_linked:
                logger.warning("link to %s lost: %s", self._config.address, reason)
                await self._inbox.put(LinkLost(reason))
            await asyncio.sleep(self._backoff.next_s())

    async def _session(self, context: sockets.Context) -> tuple[str, bool]:
        """One socket, from the first Hello to the loss of the link; returns why it ended, and
        whether there was a link."""
        socket = sockets.new_dealer(context, self._config, self._keys)
        handshakes = Handshakes(socket, self._keys)
        sockets.connect(socket, self._config, self._keys)
        self._socket = socket
        work = (self._read(socket), self._talk(socket), self._listen(handshakes))
        tasks = [asyncio.create_task(part) for part in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result(), self._linked.is_set()
        finally:
            self._linked.clear()
            self._socket = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            handshakes.close()
            socket.close()

    async def _talk(self, socket: sockets.Socket) -> str:
        while not self._linked.is_set():
            if self._is_draining:
                return "this edge drains"
            await self._knock(socket, self._backoff.next_s())
        logger.info("linked to %s as %s", self._config.address, self._hello.name)
        while self._liveness.state(_CLOUD) == "alive":
            self._beat()
            await asyncio.sleep(self._heartbeat_s)
            if not self._inbox.is_full:  # else we do not read, so the cloud cannot be judged
                self._liveness.tick()
        return f"no echo of {self._config.probation_beats} heartbeats"

    async def _listen(self, handshakes: Handshakes) -> str:
        """Remember, for whoever waits for the link, what is in the way of it."""
        async with aclosing(aiter(handshakes)) as obstacles:
            async for obstacle in obstacles:
                self._note_obstacle(obstacle)
        return self._obstacle

    async def _knock(self, socket: sockets.Socket, delay_s: float) -> None:
        """Say Hello as soon as there is a connection; returns after a Welcome or `delay_s`."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(delay_s, self._greet(socket))

    async def _greet(self, socket: sockets.Socket) -> None:
        self._said = self._hello
        await socket.send_multipart(codec.encode(self._said, self._config.max_frame_bytes))
        await self._linked.wait()

    def _beat(self) -> None:
        load = self._load()
        self._last_sent_at = self._clock()
        self._try_send(
            Heartbeat(
                sent_at=self._last_sent_at,
                num_running=load.num_running,
                num_waiting=load.num_waiting,
                kv_usage=min(1.0, max(0.0, load.kv_usage)),  # a rounding error is no fault
                rtt_s=self.rtt_s,
            )
        )

    # --- the reader -------------------------------------------------------------------------------

    async def _read(self, socket: sockets.Socket) -> str:
        lost: str | None = None
        while lost is None:
            frames = await socket.recv_multipart()
            try:
                message = codec.decode(frames, self._config.max_frame_bytes)
            except ProtocolError as error:
                self._reject(error.message)
            else:
                lost = await self._from_cloud(message)
        return lost

    async def _from_cloud(self, message: LinkMessage) -> str | None:
        """Take one message; returns why the registration is lost, if it says so."""
        if isinstance(message, Failure | Drain):
            return self._on_end(message)
        if isinstance(message, Welcome):
            self._on_welcome(message)
        elif not self._linked.is_set():
            self._reject(f"{type(message).__name__} came before Welcome")
        elif isinstance(message, Heartbeat):
            self._on_echo(message)
        elif isinstance(message, ExpandJob | AnswerJob | Cancel | LoadModel):
            self._liveness.beat(_CLOUD)
            await self._inbox.put(message)
        else:
            self._reject(f"{type(message).__name__} goes from edge to cloud only")
        return None

    def _on_welcome(self, message: Welcome) -> None:
        """The first of a session makes the link; a repeated one is a sign of life."""
        self._liveness.beat(_CLOUD)
        if not self._linked.is_set():
            self._heartbeat_s = message.heartbeat_s
            self._liveness = self._new_liveness(message.heartbeat_s)
            self.rtt_s = None
            self._linked.set()
            if self._said is not self._hello:  # it has changed while the Hello was on its way
                self._said = self._hello
                self._try_send(self._hello)
            if self._pause is not None:
                self._try_send(Drain(self._pause))

    def _on_echo(self, message: Heartbeat) -> None:
        self._liveness.beat(_CLOUD)
        self._backoff.reset()
        if message.sent_at == self._last_sent_at:  # an older one would measure our own missed beat
            self.rtt_s = self._clock() - message.sent_at

    def _on_end(self, message: Failure | Drain) -> str | None:
        """The cloud refuses this edge, has forgotten it, or stops."""
        if isinstance(message, Drain):
            is_lost, reason = True, f"the cloud stops: {message.reason or 'no reason given'}"
        else:
            is_lost, reason = message.code == "unknown_edge", message.message
        reason = reason[:_MAX_REASON]
        if self._linked.is_set():
            if is_lost:  # the cloud closes when it has heard this, or after a moment
                self._try_send(Drain(has_left=True))
            return reason if is_lost else None
        self._note_obstacle(f"it refuses this edge: {reason}")
        return None

    def _note_obstacle(self, obstacle: str) -> None:
        if obstacle != self._obstacle:
            self._obstacle = obstacle
            level = logging.DEBUG if obstacle == NO_WELCOME else logging.WARNING  # as yet
            logger.log(level, "not linked to %s: %s", self._config.address, obstacle)

    # --- odds and ends ----------------------------------------------------------------------------

    def _new_liveness(self, beat_s: float) -> Liveness:
        config = self._config
        liveness = Liveness(beat_s, config.probation_beats, config.dead_beats, self._clock)
        liveness.add(_CLOUD)
        return liveness

    def _try_send(self, message: ToCloud) -> None:
        """Send what may get lost: dropped when there is no connection or the queue is full."""
        frames = codec.encode(message, self._config.max_frame_bytes)
        try:
            if self._socket is not None:
                sockets.send_now(self._socket, frames)
        except zmq.ZMQError as error:
            logger.debug("%s not sent: %s", type(message).__name__, error)

    def _reject(self, why: str) -> None:
        self.rejected += 1
        logger.debug("message dropped: %s", why)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """The run ends by itself after a drain, or by a fault of ours: tell the owner of that."""
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s failed: %s", task.get_name(), error, exc_info=error)
            self._inbox.close(PicertError(f"the link failed: {error}"))

    async def _end_context(self) -> None:
        """In another thread, as it waits for lingering last words."""
        context, self._context = self._context, None
        if context is not None:
            await asyncio.to_thread(context.term)
