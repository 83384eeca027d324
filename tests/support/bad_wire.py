"""A wire between two ends that can be cut, slowed and stalled while it is in use."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class BadWire:
    """A TCP relay on loopback. Start it, connect to `port`, and spoil it."""

    def __init__(self, host: str, port: int) -> None:
        self._far = (host, port)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.delay_s = 0.0  # of each piece
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for end in list(self._ends):
            end.transport.abort()

    def stall(self) -> None:
        """Nothing passes, and no end is told."""
        self._flows.clear()

    def heal(self) -> None:
        """All flows again, without delay."""
        self.delay_s = 0.0
        self._flows.set()

    async def close(self) -> None:
        """Listen no more and end every connection."""
        assert self._server is not None
        self._server.close()
        self.heal()
        while self._ends:
            self.cut()
            await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._far)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._ends |= ends
        ways = [
            asyncio.create_task(self._copy(reader, far_writer)),
            asyncio.create_task(self._copy(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                end.transport.abort()
            self._ends -= ends

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
