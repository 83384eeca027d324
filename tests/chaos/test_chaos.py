"""The short form of tests/chaos/chaos.py, and the one fault that it leaves out: the cloud's own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
from author import question, whole
from author_network import network
from chaos import rage

pytestmark = pytest.mark.timeout(300)
SECONDS = 180.0
BACK_S = 3.0  # from the cloud's first answer until all edges take jobs again


async def test_every_answer_survives_what_happens_to_edges_and_wires(tmp_path: Path) -> None:
    async with network(tmp_path, 3, cloud_step_s=0.004, edge_step_s=0.01) as net:
        report = await rage(net, SECONDS, seed=1)
    assert not report.faults, str(report)[:4000]
    assert report.outcomes["answered"] > 100
    assert report.num_frames_thrown > 500
    assert min(report.routes[route] for route in ("direct", "sketch", "edge_only")) > 10
    assert len(report.deeds) >= 4


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_edges_are_back_within_three_seconds_of_a_restart_of_the_cloud_under_load(
    tmp_path: Path, how: signal.Signals
) -> None:
    body = {
        "messages": [{"role": "user", "content": question(1)}],
        "max_tokens": 2000,
        "picert": {"route": "direct"},
    }
    settings = {"shutdown_timeout_s": 5.0}
    async with network(tmp_path, 3, cloud_step_s=0.002, edge_step_s=0.002, **settings) as net:
        asking = [
            asyncio.create_task(net.client.post("/v1/chat/completions", json=body))
            for _ in range(20)
        ]
        await asyncio.sleep(0.1)
        code = await net.restart_cloud(how)
        took_s = await net.wait_for_edges()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        again = await net.client.post("/v1/chat/completions", json=body)
    assert took_s < BACK_S
    assert again.json()["choices"][0]["message"]["content"] == whole(question(1))
    if how == signal.SIGTERM:
        assert code == 0
        statuses = {a.status_code for a in answers if isinstance(a, httpx.Response)}
        assert len(answers) == 20
        assert statuses <= {200, 503}
        assert not [a for a in answers if not isinstance(a, httpx.Response)]


async def test_ten_times_too_many_hear_200_or_429_and_the_next_is_served_at_once(
    tmp_path: Path,
) -> None:
    body = {
        "messages": [{"role": "user", "content": question(1)}],
        "max_tokens": 2000,
        "picert": {"route": "direct"},
    }
    limits = {"max_num_requests": 20}
    async with network(tmp_path, 1, cloud_step_s=0.004, edge_step_s=0.004, **limits) as net:

        async def ask() -> httpx.Response:
            return await net.client.post("/v1/chat/completions", json=body)

        answers = await asyncio.gather(*(ask() for _ in range(200)))
        began = asyncio.get_running_loop().time()
        last = await ask()
        took_s = asyncio.get_running_loop().time() - began
        edges = await net.report()
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 20
    assert all(int(a.headers["retry-after"]) > 0 for a in answers if a.status_code == 429)
    assert all(
        a.json()["choices"][0]["message"]["content"] == whole(question(1))
        for a in answers
        if a.status_code == 200
    )
    assert last.status_code == 200
    assert took_s < 5.0
    assert not any(edge["in_flight"] for edge in edges)
