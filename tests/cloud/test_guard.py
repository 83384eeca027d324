"""Who reaches which path: with keys, without, from here and from elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from http_door import ANSWER, MODEL, QUESTION, URL, error_of
from scripted_service import ScriptedService, facts

from picert.cloud.guard import Guard
from picert.cloud.http import Health, create_app
from picert.cloud.keys import Keys, read_keys
from picert.config import AccessConfig

USER, ADMIN = "user-key-0123456789", "admin-key-0123456789"
BODY = {"messages": QUESTION}


def keys(user: str | None = USER, admin: str | None = ADMIN) -> Keys:
    return read_keys(AccessConfig(api_key=user, admin_api_key=admin))


@asynccontextmanager
async def guarded(
    keys: Keys, *, is_local: bool = False, body_timeout_s: float = 5.0
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ScriptedService(ANSWER), lambda: Health(None, ("edge-1",)), [MODEL], facts())

    @app.get("/admin/test")
    async def admin() -> str:
        return "administered"

    guard = Guard(app, keys, is_local=is_local, body_timeout_s=body_timeout_s)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1:8000"
    ) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", [USER, ADMIN])
async def test_good_key_is_answered(key: str) -> None:
    async with guarded(keys()) as client:
        response = await client.post(URL, json=BODY, headers=bearer(key))
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("user-key-012345678"),
        bearer(USER + "x"),
        {"authorization": USER},
        {"authorization": f"Basic {USER}"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer \u00e9\u00e9"},
    ],
)
@pytest.mark.parametrize("path", [URL, "/v1/models", "/openapi.json", "/admin/test", "/version"])
async def test_without_a_good_key_nothing_is_told(path: str, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    async with guarded(keys()) as client:
        response = await client.get(path, headers=encoded)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = error_of(response)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert USER not in response.text


async def test_no_key_is_logged_or_shown_good_or_bad(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("picert").propagate = True
    both = keys()
    async with guarded(both) as client:
        for key, status in ((USER, 200), (ADMIN, 200), ("a-wrong-key", 401)):
            response = await client.post(URL, json=BODY, headers=bearer(key))
            assert (response.status_code, key in response.text) == (status, False)
    told = caplog.text + repr(both)
    assert not [key for key in (USER, ADMIN, "a-wrong-key") if key in told]


async def test_user_key_does_not_administer() -> None:
    async with guarded(keys()) as client:
        refused = await client.get("/admin/test", headers=bearer(USER))
        done = await client.get("/admin/test", headers=bearer(ADMIN))
    assert refused.status_code == 403
    error = error_of(refused)
    assert (error["type"], error["code"]) == ("permission_error", None)
    assert done.json() == "administered"


async def test_administration_needs_its_own_key_where_users_have_one() -> None:
    async with guarded(keys(admin=None), is_local=True) as client:
        assert (await client.get("/admin/test", headers=bearer(USER))).status_code == 403


async def test_administration_is_off_where_anybody_may_ask() -> None:
    async with guarded(Keys()) as client:
        assert (await client.post(URL, json=BODY)).status_code == 200
        assert (await client.get("/admin/test")).status_code == 403


async def test_without_keys_this_machine_may_do_all() -> None:
    async with guarded(Keys(), is_local=True) as client:
        assert (await client.post(URL, json=BODY)).status_code == 200
        assert (await client.get("/admin/test")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_health_is_open_but_names_no_edge(path: str) -> None:
    async with guarded(keys()) as client:
        response = await client.get(path)
        known = await client.get(path, headers=bearer(USER))
    assert response.status_code == 200
    assert "edge-1" not in response.text
    assert ("edge-1" in known.text) == (path != "/health/live")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "192.0.2.1", "", "[::2]"])
async def test_page_of_another_name_cannot_ask_a_cloud_without_keys(host: str) -> None:
    async with guarded(Keys(), is_local=True) as client:
        response = await client.post(URL, json=BODY, headers={"host": host})
    assert response.status_code == 403
    assert "--api-key" in error_of(response)["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.9.9.9:80", "[::1]:8000"])
async def test_names_of_this_machine_are_served(host: str) -> None:
    async with guarded(Keys(), is_local=True) as client:
        assert (await client.post(URL, json=BODY, headers={"host": host})).status_code == 200


async def test_body_that_drips_is_given_up() -> None:

    received = asyncio.Queue[dict[str, object]]()
    received.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    app = create_app(ScriptedService(ANSWER), Health, [MODEL], facts())
    scope = {
        "type": "http",
        "method": "POST",
        "path": URL,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
    }
    guard = Guard(app, Keys(), is_local=True, body_timeout_s=0.01)
    await asyncio.wait_for(guard(scope, received.get, send), 10)  # type: ignore[arg-type]
    assert sent[0]["status"] == 408
