"""Peers without manners: garbage, silence, sudden death, false names; the other end survives."""

from __future__ import annotations

import asyncio
import random

import link_messages
import msgspec
import pytest

from picert.errors import EdgeLost, QueueFull
from picert.messages import (
    PROTOCOL_VERSION,
    AnswerJob,
    Cancel,
    Failure,
    Heartbeat,
    Hello,
    SamplingParams,
    TextDelta,
    Welcome,
)
from picert.transport.codec import encode
from picert.transport.events import LinkLost, PeerJoined, PeerLeft, PeerMessage
from picert.transport.registry import MAX_PEERS

LIMIT = 1 << 20


async def send_for_ever(server, name, message):
    """Until an error ends it."""
    while True:
        await server.send(name, message)
        await asyncio.sleep(0)


async def registered(links, server, name="edge-1", instance="i"):
    """A raw edge that the cloud has welcomed."""
    raw = links.raw_edge(server.address)
    await raw.say(link_messages.hello(name, instance))
    assert await raw.hear() == Welcome("0.1.0", server_beat(links))
    return raw


def server_beat(links):
    return links.beat_s


def garbage(rng):
    """A random multipart message: nonsense, or a good message with a few wrong bytes."""
    if rng.random() < 0.5:
        return [rng.randbytes(rng.choice((0, 1, 2, 2, 30))) for _ in range(rng.randint(1, 5))]
    header, body = encode(rng.choice(link_messages.ALL), LIMIT)
    edited = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        edited[rng.randrange(len(edited))] = rng.randrange(256)
    return [header, bytes(edited[: rng.randrange(1, 2 * len(edited))])]


async def test_cloud_survives_random_messages_and_serves_the_next_edge(links, next_event):
    rng = random.Random(7)
    server = await links.server()
    raw = links.raw_edge(server.address)
    for _ in range(1000):
        await raw.frames(garbage(rng))
    edge = await links.edge(server.address, "good")
    await edge.wait_linked(20)
    assert server.rejected > 500
    await server.send("good", Cancel("q"))
    assert await next_event(edge) == Cancel("q")


async def test_edge_survives_random_messages_from_its_cloud(links, next_event):
    rng = random.Random(8)
    cloud = links.raw_cloud()
    edge = await links.edge(cloud.address, probation_beats=1000, dead_beats=1001)
    route, _ = await cloud.hear_hello()
    await cloud.say(Welcome("", 60.0), route)
    for _ in range(500):
        frames = garbage(rng)
        if frames[0] not in (b"\x01\x04", b"\x01\x0a"):  # a Drain or a Failure would be believed
            await cloud.frames([route, *frames])
    await cloud.say(Cancel("end"), route)
    while await next_event(edge) != Cancel("end"):
        pass
    assert edge.rejected > 200
    assert edge.is_linked


async def test_cloud_survives_bytes_that_are_not_zeromq(links):
    rng = random.Random(9)
    server = await links.server()
    host, port = server.address.removeprefix("tcp://").split(":")
    for size in (1, 64, 10_000):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(rng.randbytes(size))
        await writer.drain()
        writer.close()
    edge = await links.edge(server.address)
    await edge.wait_linked(20)


async def test_frame_over_the_limit_costs_the_sender_its_connection(links, next_event):
    server = await links.server()
    raw = await registered(links, server)
    await next_event(server, PeerJoined)
    await raw.frames([b"\x01\x08", bytes(LIMIT + 1)])
    left = await next_event(server, PeerLeft)
    assert left.reason == "its connection is gone"


async def test_malformed_message_of_a_registered_edge_is_counted_and_costs_nothing(
    links, next_event
):
    server = await links.server()
    raw = await registered(links, server)
    await next_event(server, PeerJoined)
    await raw.frames([b"\x01\x08", b"\xc1"])
    await raw.say(TextDelta("q", 0, 0, "fine"))
    assert (await next_event(server, PeerMessage)).message.text == "fine"
    assert server.rejected == 1


async def test_message_in_the_wrong_direction_is_counted_and_dropped(links, next_event):
    server = await links.server()
    raw = await registered(links, server)
    await next_event(server, PeerJoined)
    await raw.say(Cancel("q"))
    await raw.say(Welcome("", 1.0))
    await raw.say(TextDelta("q", 0, 0, "fine"))
    assert (await next_event(server, PeerMessage)).message.text == "fine"
    assert server.rejected == 2


async def test_edge_of_another_version_is_told_so(links):
    server = await links.server()
    raw = links.raw_edge(server.address)
    _, body = encode(link_messages.hello(), LIMIT)
    await raw.frames([bytes((PROTOCOL_VERSION + 1, 1)), body])
    answer = await raw.hear()
    assert isinstance(answer, Failure)
    assert answer.code == "protocol_error"
    assert "install the same picert version" in answer.message


async def test_unknown_edge_is_told_to_say_hello(links):
    server = await links.server()
    raw = links.raw_edge(server.address)
    await raw.say(link_messages.HEARTBEAT)
    answer = await raw.hear()
    assert (answer.request_id, answer.code) == ("", "unknown_edge")


async def test_heartbeat_is_echoed_unchanged(links):
    server = await links.server()
    raw = await registered(links, server)
    await raw.say(link_messages.HEARTBEAT)
    assert await raw.hear() == link_messages.HEARTBEAT


async def test_silent_edge_goes_on_probation_and_dies(links, next_event):
    server = await links.server(heartbeat_s=0.02)
    links.beat_s = 0.02
    await registered(links, server)
    await next_event(server, PeerJoined)
    seen = set()
    while server.peers:
        seen.add(server.state("edge-1"))
        await asyncio.sleep(0.001)
    assert seen == {"alive", "probation"}
    assert await next_event(server) == PeerLeft("edge-1", "no sign of life for 8 heartbeats")


async def test_edge_whose_connection_breaks_is_gone_long_before_its_beats_say_so(links, next_event):
    server = await links.server(dead_beats=10_000)
    raw = await registered(links, server)
    await next_event(server, PeerJoined)
    raw.close()
    assert await next_event(server) == PeerLeft("edge-1", "its connection is gone")
    with pytest.raises(EdgeLost):
        await server.send("edge-1", Cancel("q"))


async def test_send_to_a_broken_connection_raises_edge_lost(links, next_event):
    server = await links.server(heartbeat_s=60)
    links.beat_s = 60.0
    raw = await registered(links, server)
    raw.close()
    with pytest.raises(EdgeLost, match="the connection to edge edge-1 is gone"):
        await send_for_ever(server, "edge-1", Cancel("q"))


async def test_edge_that_does_not_read_fills_its_queue_and_no_other(links, next_event):
    server = await links.server(high_water_mark=4)
    await registered(links, server, "stuck")
    edge = await links.edge(server.address, "good", high_water_mark=4)
    await edge.wait_linked(20)
    job = AnswerJob(
        request_id="q" * 500_000, attempt=0, messages=(), sampling=SamplingParams(), deadline_s=1.0
    )
    with pytest.raises(QueueFull, match="edge stuck does not read"):
        await send_for_ever(server, "stuck", job)
    await server.send("good", Cancel("q"))
    assert await next_event(edge) == Cancel("q")


async def test_same_process_takes_over_its_name(links, next_event):
    server = await links.server()
    await registered(links, server, instance="one")
    again = await registered(links, server, instance="one")
    events = [await next_event(server) for _ in range(3)]
    assert [type(event) for event in events] == [PeerJoined, PeerLeft, PeerJoined]
    assert events[1].reason == "it connected again"
    await server.send("edge-1", Cancel("q"))
    assert await again.hear() == Cancel("q")


@pytest.mark.parametrize(("first", "second"), [("one", "two"), ("", "")])
async def test_other_process_does_not_take_a_living_name(links, first, second):
    server = await links.server()
    raw = await registered(links, server, instance=first)
    thief = links.raw_edge(server.address)
    await thief.say(link_messages.hello("edge-1", second))
    answer = await thief.hear()
    assert (answer.request_id, answer.code) == ("", "duplicate_name")
    assert "give this one another --name" in answer.message
    await server.send("edge-1", Cancel("q"))
    assert isinstance(await raw.hear(), Welcome)  # the probe
    assert await raw.hear() == Cancel("q")


async def test_name_of_a_broken_connection_is_free_at_once(links, next_event):
    server = await links.server(heartbeat_s=60)
    links.beat_s = 60.0
    raw = await registered(links, server, instance="one")
    raw.close()
    edge = await links.edge(server.address)
    await edge.wait_linked(20)
    assert [type(await next_event(server)) for _ in range(3)] == [PeerJoined, PeerLeft, PeerJoined]


async def test_repeated_hello_is_welcomed_again_without_an_event(links, next_event):
    server = await links.server()
    raw = await registered(links, server)
    await raw.say(link_messages.hello("edge-1", "i"))
    assert isinstance(await raw.hear(), Welcome)
    await raw.say(TextDelta("q", 0, 0, "x"))
    assert [type(await next_event(server)) for _ in range(2)] == [PeerJoined, PeerMessage]


async def test_connection_cannot_register_two_names(links):
    server = await links.server()
    raw = await registered(links, server)
    await raw.say(link_messages.hello("edge-2", "i"))
    answer = await raw.hear()
    assert (answer.code, "registered as edge-1" in answer.message) == ("protocol_error", True)
    assert list(server.peers) == ["edge-1"]


async def test_number_of_edges_is_bounded(links):
    server = await links.server(heartbeat_s=60, high_water_mark=1000)
    links.beat_s = 60.0
    for index in range(MAX_PEERS):
        await registered(links, server, f"edge-{index}", f"i{index}")
    raw = links.raw_edge(server.address)
    await raw.say(link_messages.hello("one-more", "i"))
    assert (await raw.hear()).code == "queue_full"
    assert len(server.peers) == MAX_PEERS


# --- a cloud without manners ----------------------------------------------------------------------


async def test_edge_whose_echo_stops_registers_again_on_a_fresh_connection(links, next_event):
    cloud = links.raw_cloud()
    edge = await links.edge(cloud.address)
    first, hello = await cloud.hear_hello()
    await cloud.say(Welcome("", 0.02), first)
    assert await next_event(edge) == LinkLost("no echo of 3 heartbeats")
    second, again = await cloud.hear_hello()
    assert again == hello
    assert second != first


async def test_edge_that_is_unknown_says_hello_again(links, next_event):
    cloud = links.raw_cloud()
    edge = await links.edge(cloud.address, probation_beats=1000, dead_beats=1001)
    route, _ = await cloud.hear_hello()
    await cloud.say(Welcome("", 0.02), route)
    _, beat = await cloud.hear_from()
    assert isinstance(beat, Heartbeat)
    forgotten = Failure(request_id="", attempt=0, code="unknown_edge", message="say Hello first")
    await cloud.say(forgotten, route)
    assert await next_event(edge) == LinkLost("say Hello first")
    route, hello = await cloud.hear_hello()
    assert isinstance(hello, Hello)
    await cloud.say(Welcome("", 60.0), route)
    await edge.wait_linked(20)


async def test_edge_ignores_jobs_before_its_welcome(links, next_event):
    cloud = links.raw_cloud()
    edge = await links.edge(cloud.address)
    route, _ = await cloud.hear_hello()
    await cloud.say(Cancel("early"), route)
    await cloud.say(Welcome("", 60.0), route)
    await cloud.say(Cancel("late"), route)
    assert await next_event(edge) == Cancel("late")
    assert edge.rejected == 1


async def test_edge_measures_no_round_trip_from_an_echo_of_another_beat(links, next_event):
    cloud = links.raw_cloud()
    edge = await links.edge(cloud.address)
    route, _ = await cloud.hear_hello()
    await cloud.say(Welcome("", 60.0), route)
    await cloud.say(msgspec.structs.replace(link_messages.HEARTBEAT, sent_at=-1e9), route)
    await cloud.say(Cancel("q"), route)
    assert await next_event(edge) == Cancel("q")
    assert edge.rtt_s is None


@pytest.mark.parametrize("beat_s", [0.0, -1.0, 1e-9, 1e9, float("nan")])
async def test_edge_refuses_a_welcome_with_an_absurd_beat(links, beat_s):
    cloud = links.raw_cloud()
    edge = await links.edge(cloud.address)
    route, _ = await cloud.hear_hello()
    await cloud.say(Welcome("", beat_s), route)
    await cloud.say(Welcome("", 60.0), route)
    await edge.wait_linked(20)
    assert edge.rejected == 1


async def test_repeated_welcomes_keep_an_edge_linked_without_echoes(links, next_event):
    cloud = links.raw_cloud()
    edge = await links.edge(cloud.address)
    route, _ = await cloud.hear_hello()
    await cloud.say(Welcome("", 0.02), route)
    for _ in range(12):  # beats; three without a sign of life would be the end
        _, beat = await cloud.hear_from()
        assert isinstance(beat, Heartbeat)
        await cloud.say(Welcome("", 0.02), route)
    await cloud.say(Cancel("q"), route)
    assert await next_event(edge) == Cancel("q")
