"""Gate: says for each connection whether its key may come in, before a byte of ours is read.

ZeroMQ asks over ZAP (RFC 27), in process; the answer carries the key, which every message of that
connection then bears. A key that is not on the list hears "400" and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import zmq
import zmq.asyncio

from picert.log import get_logger
from picert.transport.keys import AllowList

logger = get_logger(__name__)
DOMAIN = b"picert"
_ENDPOINT = "inproc://zeromq.zap.01"
_NUM_FRAMES = 7  # version, request id, domain, address, identity, mechanism, key


class Gate:
    """Owns the ZAP socket of one context, and a task that answers on it."""

    def __init__(self, allowed: AllowList) -> None:
        self.allowed = allowed
        self.num_refused = 0
        self._socket: zmq.asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, context: zmq.asyncio.Context) -> None:
        """Answer for `context`; to be called before it binds anything."""
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ENDPOINT)
        self._task = asyncio.create_task(self._serve(self._socket), name="link gate")

    async def close(self) -> None:
        """Let nobody in any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def may_speak(self, key: bytes) -> bool:
        """The key is on the list now, whatever it was when its connection began."""
        return key in self.allowed.names

    def name_of(self, key: bytes) -> str:
        """The name that an edge with this key must bear, ANY_NAME for one that may choose."""
        return self.allowed.names[key]

    def sender(self, frames: Sequence[zmq.Frame]) -> bytes | None:
        """The key of the connection that a message came over; None once it is revoked."""
        key = bytes.fromhex(str(frames[-1].get("User-Id")))
        return key if self.may_speak(key) else None

    async def _serve(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            question = await socket.recv_multipart()
            await socket.send_multipart(self._answer(question))

    def _answer(self, question: Sequence[bytes]) -> list[bytes]:
        version, request_id = question[0], question[1]
        key = question[6] if len(question) == _NUM_FRAMES and question[5] == b"CURVE" else b""
        if key and self.may_speak(key):
            return [version, request_id, b"200", b"OK", key.hex().encode(), b""]
        self.num_refused += 1
        address = question[3].decode("ascii", "replace")
        logger.warning("edge at %s refused: its key %s… is not allowed", address, key.hex()[:8])
        return [version, request_id, b"400", b"", b"", b""]
