"""What the HTTP side listens on: refusals before anything is loaded, TLS, Unix sockets, origins."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_door import MODEL
from scripted_service import WAIT_S, ScriptedService, facts

from picert.cloud.door import Door, open_door
from picert.cloud.http import Health, create_app
from picert.cloud.keys import Keys
from picert.cloud.server import ServerOptions, bind_unix, serve
from picert.config import AccessConfig, CloudConfig, EngineConfig
from picert.errors import ConfigError

KEY = "0123456789abcdef"


def config(host: str = "127.0.0.1", **access: Any) -> CloudConfig:
    engine = EngineConfig(model="m")
    return CloudConfig(engine=engine, host=host, port=0, access=AccessConfig(**access))


@asynccontextmanager
async def served(door: Door) -> AsyncIterator[str]:
    app, stop = create_app(ScriptedService([]), Health, [MODEL], facts()), asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            door.guarded(app),
            door.listener,
            ready=port.set_result,
            stop=stop,
            options=ServerOptions(tls=door.tls),
        )
    )
    try:
        yield door.url(await asyncio.wait_for(port, WAIT_S))
    finally:
        stop.set()
        await asyncio.wait_for(task, WAIT_S)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_served_with_a_key_only(host: str) -> None:
    with pytest.raises(ConfigError, match=r"no API key.*--insecure") as caught:
        open_door(config(host))
    assert caught.value.param == "host"


@pytest.mark.parametrize("access", [{"api_key": KEY}, {"admin_api_key": KEY}, {"insecure": True}])
def test_key_or_plain_words_open_the_door_to_others(access: dict[str, Any]) -> None:
    door = open_door(config("0.0.0.0", **access))
    with closing(door.listener):
        assert not door.is_local


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    door = open_door(config(host))
    with closing(door.listener):
        assert door.is_local


def test_host_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="not known here") as caught:
        open_door(config("no such host", api_key=KEY))
    assert caught.value.param == "host"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Key and certificate for 127.0.0.1, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    wish = ["-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *wish, *name], check=True, capture_output=True, timeout=60
    )
    return key, cert


async def test_certificate_makes_it_https(certificate: tuple[str, str]) -> None:
    key, cert = certificate
    trust = ssl.create_default_context(cafile=cert)
    async with served(open_door(config(ssl_keyfile=key, ssl_certfile=cert))) as url:
        assert url.startswith("https://")
        async with httpx.AsyncClient(verify=trust) as client:
            assert (await client.get(f"{url}/health/live")).json() == {"status": "live"}


def test_certificate_without_its_key_is_refused(certificate: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        open_door(config(ssl_certfile=certificate[1]))


def test_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("x")
    with pytest.raises(ConfigError, match="give PEM files"):
        open_door(config(ssl_keyfile=str(tmp_path / "x.pem"), ssl_certfile=str(tmp_path / "x.pem")))


async def test_unix_socket_is_served(tmp_path: Path) -> None:
    path = tmp_path / "cloud.sock"
    async with served(open_door(config(uds=str(path)))):
        assert path.stat().st_mode & 0o777 == 0o660
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.get("http://localhost/health/live")
    assert response.status_code == 200


def test_unix_socket_that_is_in_use_or_no_socket_is_left_alone(tmp_path: Path) -> None:
    file, path = tmp_path / "file", str(tmp_path / "s")
    file.write_text("data")
    with pytest.raises(ConfigError, match="not a socket"):
        bind_unix(str(file))
    with closing(bind_unix(path)) as first:
        first.listen()
        with pytest.raises(ConfigError, match="in use"):
            bind_unix(path)
    bind_unix(path).close()  # what a dead process left is replaced
    assert file.read_text() == "data"


@pytest.mark.parametrize(
    ("origin", "is_allowed"), [("https://a.example", True), ("https://b", False)]
)
async def test_only_named_origins_are_told_that_they_may_ask(origin: str, is_allowed: bool) -> None:
    door = open_door(config(allowed_origins="https://a.example, http://localhost:3000"))
    asking = {"origin": origin, "access-control-request-method": "POST"}
    async with served(door) as url, httpx.AsyncClient() as client:
        response = await client.options(f"{url}/v1/chat/completions", headers=asking)
    assert ("access-control-allow-origin" in response.headers) == is_allowed


async def test_no_origin_may_ask_by_default() -> None:
    async with served(open_door(config())) as url, httpx.AsyncClient() as client:
        response = await client.get(f"{url}/health", headers={"origin": "https://a.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", ["*", "a.example", "https://a.example/path"])
def test_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="allowed-origins"):
        open_door(config(allowed_origins=origin))


async def test_head_over_the_limit_is_refused() -> None:
    door = open_door(config())
    async with served(door) as url:
        reader, writer = await asyncio.open_connection(*door.listener.getsockname())
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000)
        status = await asyncio.wait_for(reader.readline(), WAIT_S)
        writer.close()
        assert b"400" in status, url


def test_url_of_an_ipv6_host_has_brackets() -> None:
    with closing(socket.socket()) as unbound:
        assert Door(unbound, Keys(), None, True, (), "::1").url(80) == "http://[::1]:80"
