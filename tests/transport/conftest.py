"""Links and raw sockets for one test; whatever a test leaves open, running or unread fails it."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import link_messages
import pytest
import zmq
import zmq.asyncio

from picert.config import LinkConfig
from picert.messages import Hello, LinkMessage
from picert.transport.codec import decode, encode
from picert.transport.events import Load
from picert.transport.link import PeerLink, ServerLink

WAIT_S = 20.0  # for what must happen at all; nothing waits this long unless it is broken
MAX_BYTES = 1 << 20


def open_sockets() -> list[zmq.Socket[Any]]:
    """Every ZeroMQ socket of this process that is not closed."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), zmq.Socket)]
    return [
        socket for socket in found if not socket.closed and socket.type in (zmq.DEALER, zmq.ROUTER)
    ]


def num_zmq_threads() -> int:
    """The I/O and reaper threads of all contexts that are not terminated."""
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as comm:
                names.append(comm.read())
        except FileNotFoundError:
            continue
    return sum("ZMQbg" in name for name in names)


@dataclass
class Links:
    """Makes both ends, and raw sockets in their place; closes what is left at the test's end."""

    beat_s: float = 0.05
    made: list[ServerLink | PeerLink] = field(default_factory=list)
    raw: list[RawSocket] = field(default_factory=list)
    context: zmq.asyncio.Context = field(default_factory=zmq.asyncio.Context)

    def config(self, address: str = "tcp://127.0.0.1:0", **values: Any) -> LinkConfig:
        """A fast link on loopback."""
        return LinkConfig(
            **{
                "address": address,
                "heartbeat_s": self.beat_s,
                "max_frame_bytes": MAX_BYTES,
                **values,
            }
        )

    async def server(self, address: str = "tcp://127.0.0.1:0", **values: Any) -> ServerLink:
        """A cloud's end that is bound."""
        link = ServerLink(self.config(address, **values), picert_version="0.1.0")
        self.made.append(link)
        await link.start()
        return link

    async def edge(
        self, address: str, name: str = "edge-1", load: Any = None, **values: Any
    ) -> PeerLink:
        """An edge's end that has begun to register."""
        link = PeerLink(
            self.config(address, **values),
            link_messages.hello(name),
            load or (lambda: Load(num_running=2, num_waiting=1, kv_usage=0.5)),
        )
        self.made.append(link)
        await link.start()
        return link

    async def pair(self, **values: Any) -> tuple[ServerLink, PeerLink]:
        """Both ends, registered; the cloud's first event is still to be read."""
        server = await self.server(**values)
        edge = await self.edge(server.address, **values)
        await edge.wait_linked(WAIT_S)
        return server, edge

    def raw_edge(self, address: str) -> RawSocket:
        """A DEALER that says what it is told to."""
        made = RawSocket(self.context.socket(zmq.DEALER))
        made.socket.connect(address)
        self.raw.append(made)
        return made

    def raw_cloud(self) -> RawSocket:
        """A ROUTER that says what it is told to."""
        made = RawSocket(self.context.socket(zmq.ROUTER))
        made.socket.bind("tcp://127.0.0.1:0")
        self.raw.append(made)
        return made

    async def close(self) -> None:
        """Everything, in order of making."""
        for link in self.made:
            await link.close()
        for raw in self.raw:
            raw.close()
        self.context.term()


class RawSocket:
    """A socket without any of the link's manners."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self.socket = socket
        socket.setsockopt(zmq.LINGER, 0)

    @property
    def address(self) -> str:
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def say(self, message: LinkMessage, route: bytes | None = None) -> None:
        """Send one message, well formed."""
        await self.frames([*([route] if route else []), *encode(message, MAX_BYTES)])

    async def frames(self, frames: list[bytes]) -> None:
        """Send whatever."""
        await asyncio.wait_for(self.socket.send_multipart(frames), WAIT_S)

    async def hear(self) -> LinkMessage:
        """The next message, for a DEALER."""
        return decode(await asyncio.wait_for(self.socket.recv_multipart(), WAIT_S), MAX_BYTES)

    async def hear_from(self) -> tuple[bytes, LinkMessage]:
        """The next message and its route, for a ROUTER."""
        route, *frames = await asyncio.wait_for(self.socket.recv_multipart(), WAIT_S)
        return route, decode(frames, MAX_BYTES)

    async def hear_hello(self) -> tuple[bytes, Hello]:
        """The next Hello and its route, skipping other messages."""
        while True:
            route, message = await self.hear_from()
            if isinstance(message, Hello):
                return route, message

    def close(self) -> None:
        """At once, without a word."""
        self.socket.close(linger=0)


async def next_event(link: ServerLink | PeerLink, kind: type | None = None) -> Any:
    """The next event, of the given kind if one is given."""
    event = await asyncio.wait_for(anext(aiter(link.events())), WAIT_S)
    assert kind is None or isinstance(event, kind), event
    return event


@pytest.fixture(name="next_event")
def _next_event():
    return next_event


@pytest.fixture
async def links() -> AsyncIterator[Links]:
    threads = num_zmq_threads()
    made = Links()
    yield made
    await asyncio.wait_for(made.close(), WAIT_S)
    assert open_sockets() == []
    assert num_zmq_threads() == threads
    leftover = asyncio.all_tasks() - {asyncio.current_task()}
    assert not leftover
