"""Addresses: what stays on this machine is allowed, all else is refused in one helpful line."""

from __future__ import annotations

import socket as unix

import pytest
import zmq.asyncio

from picert.config import LinkConfig
from picert.errors import ConfigError
from picert.transport.sockets import allowed_address, bind_router


@pytest.fixture
def context():
    made = zmq.asyncio.Context()
    yield made
    made.term()


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:5570", "tcp://127.9.9.9:0", "tcp://[::1]:5570", "ipc:///run/picert/link"],
)
def test_local_address_is_allowed_as_it_is(address):
    assert allowed_address(address) == address


def test_localhost_becomes_a_number():
    assert allowed_address("tcp://localhost:5570") == "tcp://127.0.0.1:5570"


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "*", "192.168.1.5", "[::]", "[2001:db8::1]", "example.org", "eth0"]
)
def test_address_that_others_could_reach_is_refused(host):
    with pytest.raises(ConfigError, match="without keys only loopback") as caught:
        allowed_address(f"tcp://{host}:5570")
    assert "picert keygen" in caught.value.message
    assert caught.value.param == "link.address"


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "[::]", "example.org"])
def test_encrypted_link_may_have_any_address(host):
    assert allowed_address(f"tcp://{host}:5570", is_encrypted=True) == f"tcp://{host}:5570"


@pytest.mark.parametrize(
    "address",
    [
        *("", "tcp", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:x"),
        *(
            "tcp://127.0.0.1:70000",
            "tcp://127.0.0.1:-1",
            "tcp://127.0.0.1:5570/x",
            "tcp://::1:5570",
        ),
        *(
            "127.0.0.1:5570",
            "http://127.0.0.1:5570",
            "inproc://x",
            "ipc://",
            "tcp://eth0;127.0.0.1:1",
        ),
    ],
)
def test_malformed_address_is_refused_with_a_good_one_to_copy(address):
    with pytest.raises(ConfigError, match=r"give tcp://127\.0\.0\.1:PORT or ipc://PATH") as caught:
        allowed_address(address)
    assert "\n" not in caught.value.message


def test_path_too_long_for_a_socket_is_refused(context, tmp_path):
    with pytest.raises(ConfigError, match="cannot bind ipc://"):
        bind_router(context, LinkConfig(address=f"ipc://{tmp_path}/{'x' * 200}"))


def test_file_in_the_way_of_an_ipc_socket_is_left_alone(context, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        bind_router(context, LinkConfig(address=f"ipc://{path}"))
    assert path.read_text() == "data"


def test_ipc_socket_in_use_is_not_taken_over(context, tmp_path):
    path = tmp_path / "link"
    with unix.socket(unix.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigError, match="is in use: stop the other picert-cloud"):
            bind_router(context, LinkConfig(address=f"ipc://{path}"))


async def test_ipc_socket_left_by_a_dead_process_is_replaced(context, tmp_path):
    path = tmp_path / "link"
    with unix.socket(unix.AF_UNIX) as other:
        other.bind(str(path))
    bind_router(context, LinkConfig(address=f"ipc://{path}")).close(linger=0)
    assert not path.exists() or path.is_socket()


async def test_sockets_have_their_bounds(context):
    socket = bind_router(context, LinkConfig(address="tcp://[::1]:0", high_water_mark=7))
    try:
        assert (socket.sndhwm, socket.rcvhwm) == (7, 7)
        assert socket.maxmsgsize == LinkConfig().max_frame_bytes
        assert 0 <= socket.linger <= 1000
    finally:
        socket.close(linger=0)
