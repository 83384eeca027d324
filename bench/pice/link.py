"""A TCP relay between edges and cloud: counts the bytes of either direction and may delay them.

It stands for the network: what it counts is what a wire would carry, ZeroMQ's framing included.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

_CHUNK = 1 << 16


class Relay:
    """An `async with` block of a listening relay; leaving it closes every connection."""

    def __init__(self, target: str, delay_s: float = 0.0) -> None:
        """`target` is a tcp:// address; each byte comes out `delay_s` after it went in."""
        place = urlsplit(target)
        self._host, self._port = place.hostname, place.port
        self._delay_s = delay_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.bytes_to_edges = 0
        self.bytes_to_cloud = 0

    @property
    def address(self) -> str:
        """Where edges connect."""
        assert self._server is not None
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A task of our own for each connection: asyncio complains of its own when cancelled."""
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either end closes it. With the cloud gone it ends at once, and the
        edge tries again."""
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        ways = (
            asyncio.create_task(self._carry(reader, up_writer, to_edges=False)),
            asyncio.create_task(self._carry(up_reader, writer, to_edges=True)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            up_writer.close()
            writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_edges: bool
    ) -> None:
        """Bytes from one end to the other, in order, each after its delay."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(_send(under_way, writer))
        try:
            while data := await reader.read(_CHUNK):
                if to_edges:
                    self.bytes_to_edges += len(data)
                else:
                    self.bytes_to_cloud += len(data)
                under_way.put_nowait((time.monotonic() + self._delay_s, data))
            under_way.put_nowait((time.monotonic() + self._delay_s, b""))
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _send(
    under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
) -> None:
    """Write what has arrived, until the empty piece that ends it."""
    with suppress(ConnectionError):
        while True:
            due, data = await under_way.get()
            if not data:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            writer.write(data)
            await writer.drain()
