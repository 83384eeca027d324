"""The encrypted link: who is let in, who learns nothing, and who is put out while it runs."""

from __future__ import annotations

import asyncio
import logging

import link_messages
import pytest
import zmq

from picert.errors import ConfigError, Unavailable
from picert.messages import Cancel
from picert.transport.events import LinkLost, PeerJoined, PeerLeft
from picert.transport.keys import AllowList, new_pair, read_pair, write_pair


@pytest.fixture
def folder(tmp_path):
    """The cloud's key, an empty allow-list, and the keys of two edges."""
    for name in ("cloud", "edge", "other"):
        write_pair(tmp_path / name, new_pair())
    return tmp_path


def pair(name, folder):
    return read_pair(folder / name)


class Secured:
    """Links of one test with the keys of one folder."""

    def __init__(self, links, folder):
        self.links = links
        self.folder = folder
        self.allowed = AllowList(folder / "edges")

    def public(self, name):
        return pair(name, self.folder).public

    async def server(self, **values):
        return await self.links.server(
            link_key=str(self.folder / "cloud"), edges_file=str(self.allowed.path), **values
        )

    async def edge(self, server, key="edge", cloud="cloud", **values):
        return await self.links.edge(
            server.address,
            link_key=str(self.folder / key),
            cloud_key=self.public(cloud).hex(),
            **values,
        )


@pytest.fixture
def secured(links, folder):
    return Secured(links, folder)


async def refused(edge):
    """Why an edge does not get in, as its log says."""
    with pytest.raises(Unavailable) as caught:
        await edge.wait_linked(1.0)
    return caught.value.message


async def test_edge_on_the_list_is_linked_and_served(secured, next_event):
    secured.allowed.add(secured.public("edge"))
    server = await secured.server()
    edge = await secured.edge(server)
    await edge.wait_linked(20)
    await next_event(server, PeerJoined)
    await server.send("edge-1", Cancel("q"))
    assert await next_event(edge) == Cancel("q")


async def test_unknown_key_is_refused_and_the_edge_says_what_to_do(secured):
    secured.allowed.add(secured.public("other"))
    server = await secured.server()
    edge = await secured.edge(server)
    assert f"picert edge add {secured.public('edge').hex()}" in await refused(edge)
    assert server.num_refused >= 1
    assert server.peers == {}


async def test_unknown_key_learns_nothing(secured):
    """Not one byte of a message goes either way."""
    server = await secured.server()
    stranger = secured.links.context.socket(zmq.DEALER)
    own = pair("other", secured.folder)
    stranger.curve_serverkey = secured.public("cloud")
    stranger.curve_publickey, stranger.curve_secretkey = own.public, own.secret
    stranger.connect(server.address)
    await stranger.send_multipart([b"\x01\x01", b"\x80"])
    while not server.num_refused:
        await asyncio.sleep(0.001)
    assert await stranger.poll(100) == 0
    assert server.rejected == 0
    stranger.close(linger=0)


async def test_plain_edge_is_not_let_in(secured):
    server = await secured.server()
    edge = await secured.links.edge(server.address)
    assert "give --link-key and --cloud-key" in await refused(edge)


async def test_edge_with_the_wrong_cloud_key_is_told_to_compare(secured):
    secured.allowed.add(secured.public("edge"))
    server = await secured.server()
    edge = await secured.edge(server, cloud="other")
    assert "is not --cloud-key" in await refused(edge)


async def test_encrypting_edge_does_not_talk_to_a_plain_cloud(secured):
    server = await secured.links.server()
    edge = await secured.edge(server)
    assert "does not encrypt" in await refused(edge)


async def test_edge_may_be_added_while_the_cloud_runs(secured):
    server = await secured.server()
    edge = await secured.edge(server)
    await refused(edge)
    secured.allowed.add(secured.public("edge"))
    await edge.wait_linked(20)


async def test_revoked_edge_is_dropped_and_stays_out(secured, next_event):
    secured.allowed.add(secured.public("edge"))
    server = await secured.server()
    edge = await secured.edge(server)
    await next_event(server, PeerJoined)
    await edge.wait_linked(20)
    secured.allowed.remove(secured.public("edge"))
    assert await next_event(server) == PeerLeft("edge-1", "its key was revoked")
    assert await next_event(edge) == LinkLost("no echo of 3 heartbeats")
    assert "picert edge add" in await refused(edge)
    assert server.peers == {}


async def test_key_of_one_name_cannot_bear_another(secured):
    secured.allowed.add(secured.public("edge"), "kitchen")
    server = await secured.server()
    edge = await secured.edge(server)
    assert "--name kitchen" in await refused(edge)
    named = await secured.edge(server, name="kitchen")
    await named.wait_linked(20)


async def test_bytes_on_the_wire_are_not_the_message(secured, next_event):
    """What a listener between the two sees holds no word of it."""
    secured.allowed.add(secured.public("edge"))
    server = await secured.server()
    host, port = server.address.removeprefix("tcp://").split(":")
    seen = bytearray()

    async def copy(reader, writer):
        while data := await reader.read(65536):
            seen.extend(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def relay(reader, writer):
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    wire = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{wire.sockets[0].getsockname()[1]}"
    edge = await secured.links.edge(
        address,
        link_key=str(secured.folder / "edge"),
        cloud_key=secured.public("cloud").hex(),
    )
    await edge.wait_linked(20)
    await server.send("edge-1", link_messages.TO_EDGE[0])
    assert await next_event(edge) == link_messages.TO_EDGE[0]
    await edge.close()
    await server.close()
    wire.close()
    await wire.wait_closed()
    await asyncio.sleep(0)
    assert len(seen) > 500
    assert b"scattering" not in seen
    assert b"edge-1" not in seen


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"link_key": "nowhere"}, "--link-key without --cloud-key"),
        ({"cloud_key": "00"}, "--cloud-key without --link-key"),
        ({"link_key": "nowhere", "cloud_key": "00" * 32}, "picert keygen"),
        ({"link_key": "cloud", "cloud_key": "xyz"}, "64 hex digits"),
    ],
)
async def test_keys_that_cannot_work_are_refused_before_anything(links, folder, values, problem):
    if "link_key" in values:
        values = {**values, "link_key": str(folder / values["link_key"])}
    with pytest.raises(ConfigError, match=problem):
        await links.edge("tcp://127.0.0.1:1", **values)


async def test_encrypted_link_may_leave_this_machine(secured, next_event):
    secured.allowed.add(secured.public("edge"))
    server = await secured.server(address="tcp://0.0.0.0:0")
    port = server.address.rpartition(":")[2]
    edge = await secured.links.edge(
        f"tcp://localhost:{port}",
        link_key=str(secured.folder / "edge"),
        cloud_key=secured.public("cloud").hex(),
    )
    await edge.wait_linked(20)


async def test_no_secret_is_shown_or_logged(secured, caplog, next_event):
    caplog.set_level(logging.DEBUG)
    secured.allowed.add(secured.public("edge"))
    server = await secured.server()
    edge = await secured.edge(server)
    await edge.wait_linked(20)
    keys = [pair(name, secured.folder) for name in ("cloud", "edge")]
    shown = caplog.text + repr(keys)
    assert not [key for key in keys if key.secret.hex() in shown or repr(key.secret) in shown]
