"""What happens before the first message: connections that fail, keys that do not fit, in words."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from picert.transport.keys import PeerKeys

NOTHING_THERE = "nothing answers there (is picert-cloud running?)"
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
NO_WELCOME = "it is connected and does not answer (is it a picert-cloud?)"


class Handshakes:
    """Obstacles between a DEALER and its peer, one after the other.

    Made before the socket connects, so that nothing is missed; owns the socket's monitor until it
    is closed. The iteration ends after a refused key, as ZeroMQ tries no other time with that
    socket.
    """

    def __init__(self, socket: zmq.asyncio.Socket, keys: PeerKeys | None) -> None:
        self._socket = socket
        self._keys = keys
        self._has_connected = False  # since the last try
        self._monitor = socket.get_monitor_socket(_EVENTS)

    def close(self) -> None:
        """To be called before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        """Sentences for a person; the same may come again."""
        while True:
            event = (await recv_monitor_message(self._monitor))["event"]
            obstacle = self._obstacle(event)
            if obstacle is not None:
                yield obstacle
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                return

    def _obstacle(self, event: int) -> str | None:
        """What an event says; a connection that was refused is tried again too."""
        if event in (zmq.EVENT_CONNECTED, zmq.EVENT_CONNECT_RETRIED):
            had_connected, self._has_connected = self._has_connected, event == zmq.EVENT_CONNECTED
            return None if had_connected or self._has_connected else NOTHING_THERE
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return NO_WELCOME
        return self._refusal(event == zmq.EVENT_HANDSHAKE_FAILED_AUTH)

    def _refusal(self, is_about_key: bool) -> str:
        if self._keys is None:
            return "it wants an encrypted link: give --link-key and --cloud-key"
        if is_about_key:
            public = self._keys.own.public.hex()
            return f"it does not know this edge's key: run `picert edge add {public}` there"
        return (
            "its key is not --cloud-key, or it does not encrypt: compare with what "
            "`picert keygen` printed there"
        )
