"""The only place that makes ZeroMQ sockets: each has its bounds and an address that is allowed.

Choices, once for all sockets:
* High-water marks bound every queue, and ZeroMQ itself refuses a frame over the limit before it
  allocates it.
* A closed socket lingers briefly, which is enough for a last word and never holds up an exit.
* A route (routing id) is given by the cloud's ROUTER, never chosen by a peer: no peer can take
  another's, so there is nothing to hand over (ROUTER_HANDOVER stays off), and a route that is gone
  is refused at once (ROUTER_MANDATORY).
* Whatever leaves this machine is encrypted (CURVE): without keys only loopback TCP and ipc paths
  are taken.
* ZeroMQ's own heartbeats stay off: the link beats itself, and its beats also prove that the peer's
  event loop runs.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket as unix
import stat

import zmq
import zmq.asyncio

from picert.config import LinkConfig
from picert.errors import ConfigError
from picert.transport.gate import DOMAIN
from picert.transport.keys import KeyPair, PeerKeys

Socket = zmq.asyncio.Socket
Context = zmq.asyncio.Context

LINGER_MS = 500
_HANDSHAKE_MS = 5_000
_RECONNECT_MS = 50
_RECONNECT_LIMIT_MS = 1_000
_TCP = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")
_WANTED = "give tcp://127.0.0.1:PORT or ipc://PATH"


def bind_router(context: Context, config: LinkConfig, keys: KeyPair | None = None) -> Socket:
    """The cloud's socket, bound to `config.address`; with keys, a Gate must be open in `context`.

    Raises ConfigError if that is not allowed or not free.
    """
    address = allowed_address(config.address, is_encrypted=keys is not None)
    _check_ipc_path(address)
    socket = _new_socket(context, zmq.ROUTER, address, config)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise _bind_error(config.address, error) from None
    return socket


def new_dealer(context: Context, config: LinkConfig, keys: PeerKeys | None = None) -> Socket:
    """An edge's socket, not connected yet, so that nothing is missed that happens to it.

    Messages are queued for an established connection only: without one, a send waits. Raises
    ConfigError.
    """
    address = allowed_address(config.address, is_encrypted=keys is not None)
    socket = _new_socket(context, zmq.DEALER, address, config)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.cloud)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_LIMIT_MS)
    return socket


def connect(socket: Socket, config: LinkConfig, keys: PeerKeys | None = None) -> None:
    """Connect (and connect again) to `config.address` in the background.

    Raises ConfigError, and the socket is closed.
    """
    try:
        socket.connect(allowed_address(config.address, is_encrypted=keys is not None))
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ConfigError(
            f"cannot connect to {config.address}: {error.strerror}; {_WANTED}"
        ) from None


def send_now(socket: Socket, frames: list[bytes]) -> None:
    """Send without waiting. Raises zmq.Again (full, or no connection) or another ZMQError.

    NOTE: the asyncio socket's own DONTWAIT waits as soon as another task's send does.
    """
    try:
        zmq.Socket.shadow(socket).send_multipart(frames, flags=zmq.DONTWAIT)
    finally:
        if not socket.closed:
            socket.get(zmq.EVENTS)  # the send may have eaten the wake-up of a waiting receive


def allowed_address(address: str, *, is_encrypted: bool = False) -> str:
    """`address` as ZeroMQ wants it, if it stays on this machine or all that leaves is encrypted.

    Raises ConfigError, saying what to give instead.
    """
    transport, _, rest = address.partition("://")
    if transport == "tcp":
        return _allowed_tcp(address, rest, is_encrypted)
    if transport == "ipc" and rest:
        return address
    raise ConfigError(f"link address is {address!r}: {_WANTED}", param="link.address")


def tcp_place(address: str) -> tuple[str, int] | None:
    """Host and port of a TCP address, None for other transports."""
    match = _TCP.fullmatch(address.removeprefix("tcp://"))
    return (match["host"].strip("[]"), int(match["port"])) if match else None


def _allowed_tcp(address: str, rest: str, is_encrypted: bool) -> str:
    match = _TCP.fullmatch(rest)
    if not match or int(match["port"]) > 65535:
        raise ConfigError(f"link address is {address!r}: {_WANTED}", param="link.address")
    host = "127.0.0.1" if match["host"] == "localhost" else match["host"]
    try:
        is_local = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_local = False
    if not (is_local or is_encrypted):
        raise ConfigError(
            f"link address is {address!r}: without keys only loopback and ipc are allowed, as "
            f"anybody could read and speak: {_WANTED}, or make keys with `picert keygen` and give "
            "--link-key",
            param="link.address",
        )
    return f"tcp://{host}:{match['port']}"


def _check_ipc_path(address: str) -> None:
    """Refuse a path that is not ours: ZeroMQ unlinks whatever is there before it binds."""
    path = address.removeprefix("ipc://")
    if path == address or path.startswith("@") or not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigError(
            f"{path} exists and is not a socket: give a path of its own", param="link.address"
        )
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return  # left behind by a process that is gone
    raise ConfigError(
        f"link address {address} is in use: stop the other picert-cloud or give another path",
        param="link.address",
    )


def _bind_error(address: str, error: zmq.ZMQError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        message = (
            f"link address {address} is in use: stop the other picert-cloud or give another port"
        )
    else:
        message = f"cannot bind {address}: {error.strerror}; {_WANTED}"
    return ConfigError(message, param="link.address")


def _new_socket(context: Context, kind: int, address: str, config: LinkConfig) -> Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.SNDHWM, config.high_water_mark)
    socket.setsockopt(zmq.RCVHWM, config.high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, config.max_frame_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, int(not _is_ipv4(address)))
    return socket


def _is_ipv4(address: str) -> bool:
    """A name may stand for either."""
    place = tcp_place(address)
    return place is not None and place[0].replace(".", "").isdecimal()
