"""Both ends over real loopback sockets: registration, messages, loads, goodbyes and restarts."""

from __future__ import annotations

import asyncio

import link_messages
import msgspec
import pytest

from picert.errors import ConfigError, EdgeLost, PicertError, ProtocolError, Unavailable
from picert.messages import Cancel, TextDelta
from picert.transport.events import (
    LinkLost,
    Load,
    PeerChanged,
    PeerDraining,
    PeerJoined,
    PeerLeft,
    PeerMessage,
)


async def until(condition):
    """Let the loop run until `condition()` holds."""

    async def poll():
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 20)


async def test_edge_registers_with_its_hello_and_an_instance(links, next_event):
    server, edge = await links.pair()
    joined = await next_event(server, PeerJoined)
    assert joined.name == "edge-1"
    assert joined.hello.models == link_messages.hello().models
    assert len(joined.hello.instance) == 16
    assert edge.is_linked
    assert server.state("edge-1") == "alive"
    assert list(server.peers) == ["edge-1"]


async def test_edge_with_other_models_says_hello_anew_on_the_same_connection(links, next_event):
    server, edge = await links.pair()
    joined = await next_event(server, PeerJoined)
    await edge.pause("it changes to large")
    assert (await next_event(server, PeerDraining)).reason == "it changes to large"
    assert server.peers["edge-1"].is_draining
    other = msgspec.structs.replace(link_messages.hello(), slots=9)
    await edge.introduce(other)
    changed = await next_event(server, PeerChanged)
    assert (changed.hello.slots, changed.hello.instance) == (9, joined.hello.instance)
    assert not server.peers["edge-1"].is_draining
    await edge.introduce(other)  # nothing has changed: nobody is told
    await edge.send(link_messages.TO_CLOUD[0])
    assert isinstance(await next_event(server), PeerMessage)


async def test_edge_that_pauses_is_paused_again_after_its_link_was_lost(links, next_event):
    server, edge = await links.pair()
    await next_event(server, PeerJoined)
    await edge.pause("it changes to large")
    await server.close()
    assert isinstance(await next_event(edge), LinkLost)
    again = await links.server(server.address)
    await next_event(again, PeerJoined)
    assert (await next_event(again, PeerDraining)).reason == "it changes to large"
    await edge.introduce(link_messages.hello())
    await next_event(again, PeerChanged)
    assert not again.peers["edge-1"].is_draining


async def test_every_message_to_the_edge_arrives_in_order(links, next_event):
    server, edge = await links.pair()
    for message in link_messages.TO_EDGE:
        await server.send("edge-1", message)
    assert tuple([await next_event(edge) for _ in link_messages.TO_EDGE]) == link_messages.TO_EDGE


async def test_every_message_to_the_cloud_arrives_in_order(links, next_event):
    server, edge = await links.pair()
    await next_event(server, PeerJoined)
    for message in link_messages.TO_CLOUD:
        await edge.send(message)
    events = [await next_event(server, PeerMessage) for _ in link_messages.TO_CLOUD]
    assert tuple(e.message for e in events) == link_messages.TO_CLOUD
    assert {e.name for e in events} == {"edge-1"}


async def test_link_works_over_ipc(links, next_event, tmp_path):
    server = await links.server(f"ipc://{tmp_path}/link")
    edge = await links.edge(server.address)
    await edge.wait_linked(20)
    await server.send("edge-1", Cancel("q"))
    assert await next_event(edge) == Cancel("q")


async def test_heartbeats_carry_the_load_there_and_the_round_trip_back(links):
    server, edge = await links.pair()
    await until(lambda: edge.rtt_s is not None)
    assert 0 < edge.rtt_s < 5
    await until(lambda: (load := server.peers["edge-1"].load) and load.rtt_s is not None)
    load = server.peers["edge-1"].load
    assert (load.num_running, load.num_waiting, load.kv_usage) == (2, 1, 0.5)


async def test_usage_a_rounding_error_over_one_is_still_a_beat(links):
    server = await links.server()
    await links.edge(server.address, load=lambda: Load(0, 0, 1.0000001))
    await until(lambda: (peer := server.peers.get("edge-1")) and peer.load)
    assert server.peers["edge-1"].load.kv_usage == 1.0
    assert server.rejected == 0


async def test_several_edges_get_their_own_messages(links, next_event):
    server = await links.server()
    edges = [await links.edge(server.address, f"edge-{i}") for i in range(4)]
    for edge in edges:
        await edge.wait_linked(20)
    for i in range(4):
        await server.send(f"edge-{i}", Cancel(f"q{i}"))
    assert [await next_event(edge) for edge in edges] == [Cancel(f"q{i}") for i in range(4)]


async def test_edge_that_starts_first_waits_for_the_cloud(links, next_event):
    server = await links.server()
    address = server.address
    await server.close()
    edge = await links.edge(address)
    with pytest.raises(Unavailable, match="is picert-cloud running"):
        await edge.wait_linked(0.1)
    await links.server(address)
    await edge.wait_linked(20)


async def test_edge_registers_again_after_a_cloud_restart(links, next_event):
    server, edge = await links.pair()
    await server.close("new version")
    lost = await next_event(edge, LinkLost)
    assert lost.reason == "the cloud stops: new version"
    assert not edge.is_linked
    server = await links.server(server.address)
    await edge.wait_linked(20)
    await next_event(server, PeerJoined)
    await edge.send(TextDelta("q", 0, 0, "x"))
    assert (await next_event(server, PeerMessage)).message == TextDelta("q", 0, 0, "x")


async def test_second_living_edge_of_a_name_is_refused_until_the_first_leaves(links, next_event):
    server, first = await links.pair()
    second = await links.edge(server.address)
    with pytest.raises(Unavailable, match="an edge named edge-1 is connected"):
        await second.wait_linked(0.5)
    assert first.is_linked
    await first.close()
    await second.wait_linked(20)
    assert [type(await next_event(server)) for _ in range(3)] == [PeerJoined, PeerLeft, PeerJoined]


async def test_draining_edge_says_so_still_sends_and_leaves(links, next_event):
    server, edge = await links.pair()
    await next_event(server, PeerJoined)
    await edge.drain("maintenance")
    assert await next_event(server) == PeerDraining("edge-1", "maintenance")
    assert server.peers["edge-1"].is_draining
    await edge.send(TextDelta("q", 0, 0, "last"))
    assert (await next_event(server, PeerMessage)).message.text == "last"
    await edge.close("done")
    assert await next_event(server) == PeerLeft("edge-1", "done")
    assert server.state("edge-1") == "dead"
    assert server.peers == {}


async def test_drained_edge_does_not_come_back(links, next_event):
    server, edge = await links.pair()
    await edge.drain("maintenance")
    await server.close()
    await next_event(edge, LinkLost)
    server = await links.server(server.address)
    with pytest.raises(Unavailable):
        await edge.wait_linked(0.3)
    assert server.peers == {}


async def test_send_on_a_link_that_is_down_raises_edge_lost(links):
    server, edge = await links.pair()
    await server.close()
    await until(lambda: not edge.is_linked)
    with pytest.raises(EdgeLost, match="is down"):
        await edge.send(TextDelta("q", 0, 0, "x"))
    with pytest.raises(EdgeLost, match="edge edge-1 is not registered"):
        await server.send("edge-1", Cancel("q"))


async def test_send_to_an_unknown_edge_raises_edge_lost(links):
    server = await links.server()
    with pytest.raises(EdgeLost, match="edge nobody is not registered"):
        await server.send("nobody", Cancel("q"))


async def test_message_over_the_limit_is_refused_at_its_sender(links):
    server, edge = await links.pair()
    text = "x" * (1 << 20)
    with pytest.raises(ProtocolError, match="the limit is"):
        await edge.send(TextDelta("q", 0, 0, text))
    with pytest.raises(ProtocolError, match="the limit is"):
        await server.send("edge-1", Cancel(text))
    assert edge.is_linked


async def test_slow_owner_stops_the_edge_and_nobody_dies(links, next_event):
    count, text = 200, "x" * 200_000
    server, edge = await links.pair(high_water_mark=4)

    async def send_all():
        for index in range(count):
            await edge.send(TextDelta("q", index, 0, text))

    sending = asyncio.create_task(send_all())
    with pytest.raises(asyncio.TimeoutError):  # far longer than the eight beats of death
        await asyncio.wait_for(asyncio.shield(sending), 12 * links.beat_s)
    await next_event(server, PeerJoined)
    got = [(await next_event(server, PeerMessage)).message.index for _ in range(count)]
    assert got == list(range(count))
    await sending
    assert edge.is_linked


async def test_send_that_waits_ends_when_the_link_is_closed(links):
    _, edge = await links.pair(high_water_mark=1)

    async def send_for_ever():
        while True:
            await edge.send(TextDelta("q", 0, 0, "x" * 500_000))

    sending = asyncio.create_task(send_for_ever())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(sending), 0.3)
    await edge.close()
    with pytest.raises(EdgeLost):
        await sending


async def test_cancelled_send_leaves_the_link_usable(links, next_event):
    server, edge = await links.pair(high_water_mark=1)
    sends = [asyncio.create_task(edge.send(link_messages.TO_CLOUD[0])) for _ in range(50)]
    await asyncio.sleep(0)
    for send in sends:
        send.cancel()
    await asyncio.gather(*sends, return_exceptions=True)
    await next_event(server, PeerJoined)
    last = link_messages.TO_CLOUD[1]
    sending = asyncio.create_task(edge.send(last))
    while (await next_event(server, PeerMessage)).message != last:
        pass
    await sending


async def test_closing_both_ends_twice_is_harmless_and_ends_the_events(links):
    server, edge = await links.pair()
    for _ in range(2):
        await edge.close()
        await server.close()
    assert [type(e) for e in [e async for e in server.events()]] == [PeerJoined, PeerLeft]
    assert [e async for e in edge.events()] == []


async def test_closing_what_never_started_is_harmless(links):
    server = await links.server()
    await server.close()
    edge = await links.edge(server.address)
    await edge.close()
    assert [e async for e in edge.events()] == []


async def test_second_server_on_a_port_is_refused_in_one_line(links):
    server = await links.server()
    with pytest.raises(ConfigError, match="is in use: stop the other picert-cloud") as caught:
        await links.server(server.address)
    assert "\n" not in caught.value.message


async def test_edge_refuses_an_address_that_is_not_local(links):
    with pytest.raises(ConfigError, match="without keys only loopback"):
        await links.edge("tcp://192.0.2.1:5570")


async def test_fault_of_the_owners_callback_ends_the_events_with_an_error(links, next_event):
    def broken() -> Load:
        raise ZeroDivisionError("no load")

    server = await links.server()
    edge = await links.edge(server.address, load=broken)
    with pytest.raises(PicertError, match="the link failed: no load"):
        await next_event(edge)


async def test_hundred_restarts_of_an_edge_leave_nothing_behind(links, next_event):
    server = await links.server()
    for _ in range(100):
        edge = await links.edge(server.address)
        await edge.wait_linked(20)
        await edge.close()
        await next_event(server, PeerJoined)
        await next_event(server, PeerLeft)
        links.made.remove(edge)
    assert server.peers == {}
    assert server.rejected == 0
