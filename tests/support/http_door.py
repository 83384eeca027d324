"""The front door over ASGI, without a socket: a client of it, and ways to ask and to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from scripted_service import DONE, ScriptedService, Step, facts, plan, text

from picert.cloud.http import Health, HttpLimits, ServedModel, create_app
from picert.messages import Request, SamplingParams

MODEL = ServedModel("cloud-model", 1_700_000_000)
ANSWER: list[Step] = [plan(), text("Walk. "), text("Rést. 🌱 "), text("Eat."), DONE]
QUESTION = [{"role": "user", "content": "How do I rest?"}]
URL = "/v1/chat/completions"


@asynccontextmanager
async def door(
    service: ScriptedService,
    limits: HttpLimits | None = None,
    default_sampling: SamplingParams | None = None,
    health: Health | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(service, lambda: health or Health(), [MODEL], facts(default_sampling), limits)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
        yield client


async def ask(script: Sequence[Step] = ANSWER, **body: Any) -> httpx.Response:
    async with door(ScriptedService(script)) as client:
        return await client.post(URL, json={"messages": QUESTION, **body})


async def asked(**body: Any) -> Request:
    """The Request that the service gets for a body."""
    service = ScriptedService(ANSWER)
    async with door(service) as client:
        response = await client.post(URL, json={"messages": QUESTION, **body})
    assert response.status_code == 200, response.text
    return service.requests[0]


def data_lines(response: httpx.Response) -> list[str]:
    events = response.content.decode().split("\n\n")
    assert events.pop() == ""
    return [event.removeprefix("data: ") for event in events if event.startswith("data: ")]


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in response.text
    return error
