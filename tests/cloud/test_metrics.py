"""Metrics: the names that are promised, the truth about what clients saw, and no ids in labels."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from fake_engine import FakeRunner, fake_engine
from prometheus_client.parser import text_string_to_metric_families
from scripted import ScriptedLink, settle
from scripted_service import facts

from picert.cloud.edges import EdgePool
from picert.cloud.http import Health, ServedModel, create_app
from picert.cloud.metrics import add_metrics, new_registry
from picert.cloud.server import bind, serve
from picert.cloud.service import CloudService
from picert.cloud.tally import Tally
from picert.config import CloudConfig, EngineConfig
from picert.engine.loop import EngineLoop
from picert.engine.stats import Histogram
from picert.messages import Done, Request, Usage
from picert.pice.prompts import load_prompts
from picert.transport.events import PeerLeft

ROOT = Path(__file__).parents[2]
PROMISED = {
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total"),
    *("generation_tokens_total", "request_success_total", "num_preemptions_total"),
    *("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"),
    *("request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds"),
    *("route_total", "sketch_tokens", "predicted_length_error_tokens", "expansion_seconds"),
    *("dispatch_queue_depth", "ensemble_wins_total", "ensemble_confidence"),
    *("model_switches_total", "edge_up", "edge_rtt_seconds", "fallback_total"),
    *("cloud_tokens_saved_total", "cloud_checks_total"),
}
BODY = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 20,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
    "request_id": "secret-id-7",
    "picert": {"route": "direct"},
}


@asynccontextmanager
async def cloud() -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedLink, FakeRunner]]:
    runner, link = FakeRunner(), ScriptedLink()
    loop = EngineLoop(fake_engine(runner, time.monotonic))
    loop.start()
    pool = EdgePool(link)  # type: ignore[arg-type]
    config = CloudConfig(engine=EngineConfig(model="fake"))
    service = CloudService(loop, pool, load_prompts(), config)
    following = asyncio.create_task(pool.serve())
    app = create_app(service, Health, [ServedModel("m", 0)], facts())
    add_metrics(app, new_registry(loop, service.tally, pool, link))  # type: ignore[arg-type]
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(app, bind("127.0.0.1", 0), ready=port.set_result, stop=stop)
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{await port}") as client:
        yield client, link, runner
    stop.set()
    await serving
    link.happen(None)
    await following
    await asyncio.to_thread(loop.stop, 10.0)


async def scrape(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def value(families: dict[str, Any], sample: str, **labels: str) -> float:
    found = [
        s.value
        for family in families.values()
        for s in family.samples
        if s.name == f"picert_{sample}" and labels.items() <= s.labels.items()
    ]
    assert len(found) == 1, (sample, labels, found)
    return float(found[0])


def bucket_of(families: dict[str, Any], name: str, seconds: float) -> tuple[float, float]:
    """Bounds of the bucket that one observation fell into."""
    rows = [s for s in families[f"picert_{name}"].samples if s.name.endswith("_bucket")]
    below = 0.0
    for row in rows:
        if row.value:
            return below, float(row.labels["le"])
        below = float(row.labels["le"])
    raise AssertionError(f"{name} is empty")


async def test_every_promised_name_is_there_from_the_start() -> None:
    async with cloud() as (client, link, _):
        link.join("kitchen")
        await settle()
        families = await scrape(client)
        names = {name for f in families.values() for name in (f.name, f"{f.name}_total")}
    assert {f"picert_{name}" for name in PROMISED} <= names


async def test_histograms_agree_with_what_the_client_saw() -> None:
    """An answer of 20 tokens, the first after 0.3 s, the others 10 ms apart, timed at both ends."""
    async with cloud() as (client, _, runner):
        runner.gate = threading.Semaphore(0)
        steps = threading.Thread(target=_release, args=(runner, 40))
        steps.start()
        began, first = time.monotonic(), 0.0
        async with client.stream("POST", "/v1/chat/completions", json=BODY) as response:
            async for line in response.aiter_lines():
                if '"content":' in line and '"content":""' not in line and not first:
                    first = time.monotonic() - began
        whole = time.monotonic() - began
        steps.join()
        families = await scrape(client)
    for name, seen in (
        ("e2e_request_latency_seconds", whole),
        ("time_to_first_token_seconds", first),
    ):
        low, high = bucket_of(families, name, seen)
        assert value(families, f"{name}_count") == 1
        assert abs(value(families, f"{name}_sum") - seen) < 0.25 * seen + 0.05
        assert low / 2.5 <= seen <= 2.5 * high  # the same bucket or the next
    assert value(families, "inter_token_latency_seconds_count") == 19
    assert value(families, "inter_token_latency_seconds_sum") <= whole
    assert value(families, "request_success_total", finished_reason="length") == 1
    assert value(families, "generation_tokens_total") == 20


def _release(runner: FakeRunner, count: int) -> None:
    time.sleep(0.3)
    for _ in range(count):
        time.sleep(0.01)
        runner.gate.release()


async def test_no_id_and_no_text_is_in_a_label() -> None:
    async with cloud() as (client, _, _):
        await client.post("/v1/chat/completions", json=BODY)
        shown = (await client.get("/metrics")).text
    assert "secret-id-7" not in shown
    allowed = {"model", "finished_reason", "le", "route", "reason", "list", "edge", "stage", "code"}
    assert set(re.findall(r'[{,](\w+)="', shown)) <= allowed


async def test_edge_that_left_is_down_and_not_forgotten() -> None:
    async with cloud() as (client, link, _):
        link.join("kitchen", "cellar")
        link.happen(PeerLeft("cellar", "gone"))
        await settle()
        families = await scrape(client)
        assert value(families, "edge_up", edge="kitchen") == 1
        assert value(families, "edge_up", edge="cellar") == 0


def test_reason_of_a_route_is_one_of_a_few_words() -> None:
    tally = Tally()
    request = Request(request_id="q", messages=())
    for decided in ("direct: no edge is connected", "anything, 17 of 93"):
        tally.answer(request, done(), 0, decided)
    tally.answer(msgspec.structs.replace(request, route="direct"), done(), 0, "anything")
    assert {reason for _, reason in tally.routes} == {"no_edge", "other", "requested"}


def done() -> Done:
    return Done(
        request_id="q",
        finish_reason="stop",
        route="direct",
        reasons=(),
        segments=(),
        usage=Usage(),
        prompt_tokens=1,
        completion_tokens=1,
        queue_s=0.0,
        sketch_s=0.0,
        first_text_s=0.1,
        total_s=0.2,
    )


def test_histogram_counts_each_value_once_and_a_bound_below() -> None:
    histogram = Histogram((1.0, 2.0))
    for seen in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.add(seen)
    assert histogram.cumulative() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert (histogram.count, histogram.sum, histogram.mean) == (5, 14.0, 2.8)


async def test_dashboard_asks_only_for_what_is_there() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"picert_\w+", target["expr"])
    }
    async with cloud() as (client, link, _):
        link.join("kitchen")
        await settle()
        families = await scrape(client)
    told = {
        f"{family.name}{end}"
        for family in families.values()
        for end in ("", "_total", "_bucket", "_sum", "_count")
    }
    assert asked
    assert asked <= told
