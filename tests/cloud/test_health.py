"""Health that cannot lie, administration, and the way down: a real service over a fake runner."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from eventually import eventually
from fake_engine import Clock, FakeRunner, fake_engine
from scripted import ScriptedLink
from scripted_service import facts

from picert.cloud.admin import add_admin
from picert.cloud.edges import EdgePool
from picert.cloud.health import health, wind_down
from picert.cloud.http import ServedModel, create_app
from picert.cloud.service import CloudService
from picert.config import CloudConfig, EngineConfig
from picert.engine.loop import EngineLoop
from picert.pice.prompts import load_prompts

BODY = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 4,
    "temperature": 0,
    "picert": {"route": "direct"},
}
CHAT, READY = "/v1/chat/completions", "/health/ready"


@dataclass
class Cloud:
    client: httpx.AsyncClient
    service: CloudService
    loop: EngineLoop
    runner: FakeRunner
    link: ScriptedLink
    clock: Clock  # the engine loop's

    async def ready(self) -> tuple[int, str]:
        response = await self.client.get(READY)
        return response.status_code, response.json().get("reason", "")

    def ask(self) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.post(CHAT, json=BODY))


@asynccontextmanager
async def cloud() -> AsyncIterator[Cloud]:
    """Steps of its engine wait for the runner's gate."""
    runner, link, clock = FakeRunner(), ScriptedLink(), Clock()
    runner.gate = threading.Semaphore(0)
    loop = EngineLoop(fake_engine(runner), clock)
    loop.start()
    pool = EdgePool(link)  # type: ignore[arg-type]
    config = CloudConfig(engine=EngineConfig(model="fake"))
    service = CloudService(loop, pool, load_prompts(), config)
    following = asyncio.create_task(pool.serve())
    now = lambda: health(loop, service.admission, pool, following)  # noqa: E731
    app = create_app(service, now, [ServedModel("m", 0)], facts())
    add_admin(app, service, pool, link)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield Cloud(client, service, loop, runner, link, clock)
    runner.gate.release(10**6)
    link.happen(None)
    await following
    await asyncio.to_thread(loop.stop, 10.0)
    assert service.num_in_flight == 0


async def test_engine_that_is_stuck_is_not_ready_within_five_seconds_and_the_reason_is_told() -> (
    None
):
    async with cloud() as cloudy:
        asking = cloudy.ask()
        await eventually(lambda: cloudy.loop.num_requests == 1)
        cloudy.clock.now += 3.0
        assert await cloudy.ready() == (200, "")
        cloudy.clock.now += 1.5
        assert await cloudy.ready() == (503, "the engine made no step for 4.5 s")
        assert (await cloudy.client.get("/health/live")).status_code == 200
        cloudy.runner.gate.release(10**6)
        assert (await asking).status_code == 200
        assert await cloudy.ready() == (200, "")


async def test_idle_engine_is_ready_however_long_it_was_idle() -> None:
    async with cloud() as cloudy:
        cloudy.clock.now += 1e6
        assert await cloudy.ready() == (200, "")


async def test_engine_that_has_died_is_not_ready_and_says_why() -> None:
    async with cloud() as cloudy:

        def fail(_: object) -> object:
            raise RuntimeError("the disk is on fire")

        cloudy.runner.logits_of = fail  # type: ignore[assignment]
        cloudy.runner.gate.release(10**6)
        response = await cloudy.ask()
        assert response.status_code == 503
        assert await cloudy.ready() == (503, "the engine has stopped")
        assert (await cloudy.client.get("/health/live")).status_code == 200


async def test_drained_cloud_finishes_what_it_has_and_takes_nothing_new_until_it_is_reopened() -> (
    None
):
    async with cloud() as cloudy:
        asking = cloudy.ask()
        await eventually(lambda: cloudy.service.num_in_flight == 1)
        drained = await cloudy.client.post("/admin/drain")
        assert drained.json() == {"draining": True, "in_flight": 1}
        assert (await cloudy.ready())[0] == 503
        refused = await cloudy.client.post(CHAT, json=BODY)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["retry-after"]) > 0
        cloudy.runner.gate.release(10**6)
        assert (await asking).status_code == 200
        assert (await cloudy.client.delete("/admin/drain")).json()["draining"] is False
        assert (await cloudy.ask()).status_code == 200


async def test_no_question_and_no_answer_is_logged_even_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("picert").propagate = True
    body = {**BODY, "messages": [{"role": "user", "content": "zebra crossing"}]}
    async with cloud() as cloudy:
        cloudy.runner.gate.release(10**6)
        answer = await cloudy.client.post(CHAT, json=body)
        refused = await cloudy.client.post(CHAT, json={**body, "temperature": "zebra"})
        broken = await cloudy.client.post(CHAT, content=b"zebra {")
    assert (answer.status_code, refused.status_code) == (200, 400)
    assert broken.status_code in (400, 415)
    text = answer.json()["choices"][0]["message"]["content"]
    assert "direct in" in caplog.text  # the one line of a question is there
    assert "zebra" not in caplog.text
    assert text not in caplog.text


async def test_edges_are_listed_and_drained_by_name() -> None:
    async with cloud() as cloudy:
        cloudy.link.join("kitchen", "cellar", slots=2)
        await eventually(lambda: len(cloudy.service._edges.roster.views()) == 2)
        await cloudy.client.post("/admin/edges/cellar/drain")
        told = (await cloudy.client.get("/admin/edges")).json()["edges"]
        assert {edge["name"]: edge["available"] for edge in told} == {
            "kitchen": True,
            "cellar": False,
        }
        assert (await cloudy.client.get(READY)).json()["edges"] == ["kitchen"]
        missing = await cloudy.client.post("/admin/edges/attic/drain")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "edge_not_found"


async def test_way_down_waits_for_what_is_in_flight_and_not_for_ever() -> None:
    async with cloud() as cloudy:
        told, stop = asyncio.Event(), asyncio.Event()
        asking = cloudy.ask()
        await eventually(lambda: cloudy.service.num_in_flight == 1)
        told.set()
        ending = asyncio.create_task(wind_down(told, cloudy.service.admission, stop, 30.0))
        await eventually(lambda: cloudy.service.admission.is_draining)
        assert not stop.is_set()
        cloudy.runner.gate.release(10**6)
        assert (await asking).status_code == 200
        await ending
        assert stop.is_set()


async def test_way_down_gives_up_on_a_question_that_does_not_end() -> None:
    async with cloud() as cloudy:
        told, stop = asyncio.Event(), asyncio.Event()
        asking = cloudy.ask()
        await eventually(lambda: cloudy.service.num_in_flight == 1)
        told.set()
        await wind_down(told, cloudy.service.admission, stop, 0.01)
        assert stop.is_set()
        cloudy.runner.gate.release(10**6)
        await asking
