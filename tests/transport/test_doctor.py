"""`picert-edge doctor`: each fault gives its own one cause, and a sound link leaves no trace."""

from __future__ import annotations

import asyncio
from contextlib import closing
from socket import create_server

import pytest

from picert.errors import ConfigError, Unavailable
from picert.messages import PROTOCOL_VERSION, Probe
from picert.transport import doctor
from picert.transport.doctor import examine
from picert.transport.keys import AllowList, new_pair, read_pair, write_pair


async def told(config, **options):
    return {f.about: f.text async for f in examine(config, "0.1.0", **options)}


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE_S", 1.0)


@pytest.fixture
def keys(tmp_path):
    for name in ("cloud", "edge"):
        write_pair(tmp_path / name, new_pair())
    return tmp_path


def ours(links, address, keys, cloud="cloud"):
    public = read_pair(keys / cloud).public.hex()
    return links.config(address, link_key=str(keys / "edge"), cloud_key=public)


async def test_sound_link_has_four_good_answers_and_registers_nobody(links):
    server = await links.server()
    assert list(await told(links.config(server.address))) == ["address", "key", "version", "clock"]
    assert server.peers == {}
    assert server.rejected == 0


async def test_sound_encrypted_link_is_said_to_be_so(links, keys):
    AllowList(keys / "edges").add(read_pair(keys / "edge").public)
    secure = {"link_key": str(keys / "cloud"), "edges_file": str(keys / "edges")}
    server = await links.server(**secure)
    findings = await told(ours(links, server.address, keys))
    assert findings["key"] == "encrypted, both keys are known"


async def test_unknown_key_is_the_cause(links, keys):
    server = await links.server(link_key=str(keys / "cloud"), edges_file=str(keys / "edges"))
    with pytest.raises(Unavailable, match=r"^key: it does not know .* `picert edge add"):
        await told(ours(links, server.address, keys))


async def test_other_clouds_key_is_the_cause(links, keys):
    server = await links.server(link_key=str(keys / "cloud"), edges_file=str(keys / "edges"))
    with pytest.raises(Unavailable, match=r"^key: its key is not --cloud-key"):
        await told(ours(links, server.address, keys, cloud="edge"))


async def test_nobody_there_is_the_cause(links):
    with closing(create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=r"^address: .*is picert-cloud running there"):
        await told(links.config(f"tcp://127.0.0.1:{port}"))


async def test_name_that_is_not_known_is_the_cause(links, keys):
    with pytest.raises(Unavailable, match=r"^address: the name in .* is not known"):
        await told(ours(links, "tcp://no-such-host.invalid:1", keys))


async def test_address_that_would_leave_this_machine_unencrypted_is_the_cause(links):
    with pytest.raises(ConfigError, match="without keys only loopback"):
        await told(links.config("tcp://192.0.2.1:5570"))


async def test_other_kind_of_server_is_the_cause(links):
    async def shut(reader, writer):
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(shut, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=r"^key: "):
            await told(links.config(f"tcp://127.0.0.1:{port}"))


async def test_other_protocol_is_the_cause(links):
    cloud = links.raw_cloud()
    asking = asyncio.create_task(told(links.config(cloud.address)))
    route, message = await cloud.hear_from()
    assert isinstance(message, Probe)
    await cloud.frames([route, bytes((PROTOCOL_VERSION + 1, 12)), b"\x80"])
    with pytest.raises(Unavailable, match=r"^version: .*install the same picert"):
        await asking


@pytest.mark.parametrize(("apart_s", "side"), [(-3600, "ahead"), (3600, "behind")])
async def test_clock_that_is_wrong_is_the_cause(links, apart_s, side):
    server = await links.server()
    clock = doctor.time.time
    with pytest.raises(Unavailable, match=rf"^clock: the cloud's is 3600 s {side}"):
        await told(links.config(server.address), wall_clock=lambda: clock() + apart_s)
