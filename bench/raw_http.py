"""An HTTP client that costs next to nothing, so that a benchmark measures the server, not itself.

It speaks just enough HTTP/1.1 for answers of picert: one request a connection or many, bodies by
length or in chunks, read to their last byte.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
_TEXT = re.compile(rb'"content":"[^"]')  # of any event: one chunk may hold several


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; times are seconds from the first byte sent."""

    status: int
    first_text_s: float
    total_s: float
    is_whole: bool  # its last event was the end mark, or it is no stream


class Connection:
    """One connection to one server; use it in an `async with` block."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(*self._place)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.transport.abort()

    async def post(self, body: dict[str, Any]) -> Reply:
        """Ask, and read the answer to its end."""
        clock = asyncio.get_running_loop().time
        data = json.dumps(body).encode()
        began = clock()
        self._writer.write(
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        if b"transfer-encoding: chunked" not in head:
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await self._reader.readexactly(length)
            return Reply(status, 0.0, clock() - began, is_whole=True)
        first_s, last = 0.0, b""
        while size := int(await self._reader.readline(), 16):
            last = (await self._reader.readexactly(size + 2))[:-2]
            if not first_s and _TEXT.search(last):
                first_s = clock() - began
        await self._reader.readline()
        is_whole = last.endswith(b"data: [DONE]\n\n")
        return Reply(status, first_s, clock() - began, is_whole)
