"""Why does an edge not reach its cloud? Asks the questions in order and stops at the first that has
a bad answer. Nothing is registered on the way."""

from __future__ import annotations

import asyncio
import socket as names
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from picert.config import LinkConfig
from picert.errors import ProtocolError, Unavailable
from picert.messages import Failure, Probe
from picert.patience import within
from picert.transport import codec, sockets
from picert.transport.handshake import NO_WELCOME, NOTHING_THERE, Handshakes
from picert.transport.keys import PeerKeys, peer_keys

PATIENCE_S = 5.0  # with each step
MAX_CLOCKS_APART_S = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One question that has a good answer."""

    about: str
    text: str


async def examine(
    config: LinkConfig, version: str, wall_clock: Callable[[], float] = time.time
) -> AsyncGenerator[Finding, None]:
    """What is well, step by step. Raises ConfigError or Unavailable with the one cause that is
    not."""
    keys = peer_keys(config)
    sockets.allowed_address(config.address, is_encrypted=keys is not None)
    yield Finding("address", await _reach(config.address))
    context = sockets.Context()
    try:
        socket = sockets.new_dealer(context, config, keys)
        handshakes = Handshakes(socket, keys)
        try:
            sockets.connect(socket, config, keys)
            yield Finding("key", await _shake_hands(handshakes, keys))
            probe = await _probe(socket, config, Probe(version, wall_clock()))
            yield Finding("version", f"{version} here, {probe.picert_version} there")
            yield Finding("clock", _compare_clocks(probe.unix_time - wall_clock()))
        finally:
            handshakes.close()
            socket.close(linger=0)
    finally:
        await asyncio.to_thread(context.term)


async def _reach(address: str) -> str:
    """A connection without a word on it."""
    place = sockets.tcp_place(address)
    opening = (
        asyncio.open_unix_connection(address.removeprefix("ipc://"))
        if place is None
        else asyncio.open_connection(*place)
    )
    try:
        _, writer = await within(PATIENCE_S, opening)
    except names.gaierror:
        raise Unavailable(f"address: the name in {address} is not known on this machine") from None
    except asyncio.TimeoutError:
        raise Unavailable(
            f"address: {address} does not answer in {PATIENCE_S:g} s: does a firewall drop it?"
        ) from None
    except OSError as error:
        raise Unavailable(
            f"address: {address}: {error.strerror}: is picert-cloud running there, with "
            "--edge-bind at an address that this machine can reach?"
        ) from None
    peer = writer.get_extra_info("peername")
    writer.close()
    return f"{address} accepts connections" + (f" ({peer[0]})" if place else "")


async def _shake_hands(handshakes: Handshakes, keys: PeerKeys | None) -> str:
    """Until both ends believe each other's keys, where they have some."""

    async def outcome() -> str:
        async with aclosing(aiter(handshakes)) as obstacles:
            async for obstacle in obstacles:
                if obstacle != NOTHING_THERE:
                    return obstacle
        return NOTHING_THERE

    try:
        told = await within(PATIENCE_S, outcome())
    except asyncio.TimeoutError:
        told = "it accepts connections and says nothing: is it a picert-cloud?"
    if told != NO_WELCOME:
        raise Unavailable(f"key: {told}")
    return "encrypted, both keys are known" if keys else "no encryption, as on this machine only"


async def _probe(socket: sockets.Socket, config: LinkConfig, ours: Probe) -> Probe:
    await socket.send_multipart(codec.encode(ours, config.max_frame_bytes))
    try:
        frames = await within(PATIENCE_S, socket.recv_multipart())
        answer = codec.decode(frames, config.max_frame_bytes)
    except asyncio.TimeoutError:
        raise Unavailable("version: the cloud does not answer: is it a picert-cloud?") from None
    except ProtocolError as error:
        raise Unavailable(f"version: {error.message}") from None
    if isinstance(answer, Probe):
        return answer
    told = answer.message if isinstance(answer, Failure) else type(answer).__name__
    raise Unavailable(f"version: the cloud answers: {told[:200]}")


def _compare_clocks(apart_s: float) -> str:
    if abs(apart_s) > MAX_CLOCKS_APART_S:
        raise Unavailable(
            f"clock: the cloud's is {abs(apart_s):.0f} s {'ahead' if apart_s > 0 else 'behind'}: "
            "set both by NTP, or logs and certificates will not agree"
        )
    return f"{abs(apart_s):.1f} s apart"
