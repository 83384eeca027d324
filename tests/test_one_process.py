"""Cloud and edge with real models, sockets and HTTP in one process, so that what a client's leaving
frees can be counted: every block, table and task."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from eventually import eventually

from picert import hub
from picert.cloud.edges import EdgePool
from picert.cloud.exchange import ModelFacts
from picert.cloud.http import Health, ServedModel, create_app
from picert.cloud.server import bind, serve
from picert.cloud.service import CloudService
from picert.config import CloudConfig, EngineConfig, LinkConfig
from picert.edge.worker import EdgeWorker
from picert.engine.engine import load_engine
from picert.engine.loop import EngineLoop
from picert.messages import Cancel, ExpandJob, Hello, ModelInfo, SamplingParams
from picert.pice.prompts import load_prompts
from picert.transport.events import Load
from picert.transport.link import PeerLink, ServerLink

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(240)]
QUESTION = "What are the most effective ways to deal with stress?"


@dataclass(frozen=True)
class Parts:
    url: str
    service: CloudService
    pool: EdgePool
    worker: EdgeWorker
    loops: tuple[EngineLoop, EngineLoop]

    def hold_nothing(self) -> bool:
        tables = (self.service.num_in_flight, self.pool.num_open, self.worker.num_running)
        return not any(tables) and not any(loop.num_requests for loop in self.loops)


def start_loop(name: str) -> EngineLoop:
    config = EngineConfig(model=str(hub.find(name)), threads=1, kv_tokens=4096, max_num_seqs=8)
    loop = EngineLoop(load_engine(config))
    loop.start()
    return loop


@asynccontextmanager
async def edge(address: str, loop: EngineLoop) -> AsyncIterator[EdgeWorker]:
    model = ModelInfo("small", "f", 1, loop.engine.max_model_len)
    hello = Hello(name="e", picert_version="0", models=(model,), slots=8, kv_tokens=4096)
    link = PeerLink(LinkConfig(address=address), hello, lambda: Load(0, 0, 0.0))
    worker = EdgeWorker({"small": loop}, load_prompts(), link)

    async def follow() -> None:
        async for event in link.events():
            if isinstance(event, ExpandJob | Cancel):
                await worker.take(event)

    await link.start()
    following = asyncio.create_task(follow())
    await link.wait_linked(10.0)
    yield worker
    await link.close()
    await following


@asynccontextmanager
async def running() -> AsyncIterator[Parts]:
    loops = (start_loop("qwen2.5-coder-0.5b-instruct"), start_loop("smollm2-135m-instruct"))
    link = ServerLink(LinkConfig(address="tcp://127.0.0.1:0"))
    await link.start()
    pool = EdgePool(link)
    config = CloudConfig(engine=loops[0].engine.config)
    service = CloudService(loops[0], pool, load_prompts(), config)
    following = asyncio.create_task(pool.serve())
    listener, stop = bind("127.0.0.1", 0), asyncio.Event()
    engine = loops[0].engine
    facts = ModelFacts(engine.tokenizer, engine.max_model_len, SamplingParams())
    app = create_app(service, Health, [ServedModel("large", 0)], facts)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(app, listener, ready=port.set_result, stop=stop))
    async with edge(link.address, loops[1]) as worker:
        await eventually(lambda: pool.load(0).num_edges == 1)
        yield Parts(f"http://127.0.0.1:{await port}", service, pool, worker, loops)
    stop.set()
    await serving
    await link.close()
    await following
    for loop in loops:
        loop.stop()
        loop.engine.self_check()
        assert loop.stats().kv_usage == 0.0
        loop.engine.close()


def body(route: str, *, stream: bool) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": stream,
        "picert": {"route": route, "progress": True},
    }


@pytest.mark.parametrize("route", ["direct", "sketch"])
async def test_client_that_leaves_mid_stream_frees_everything(route: str) -> None:
    async with running() as parts, httpx.AsyncClient(timeout=60) as client:
        chat = f"{parts.url}/v1/chat/completions"
        async with client.stream("POST", chat, json=body(route, stream=True)) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if '"content":' in line and (route == "direct" or parts.worker.num_running):
                    break
            assert parts.service.num_in_flight == 1
        await eventually(parts.hold_nothing)
        parts.pool.self_check()


async def test_client_that_leaves_before_a_plain_answer_frees_everything() -> None:
    async with running() as parts, httpx.AsyncClient(timeout=60) as client:
        chat = f"{parts.url}/v1/chat/completions"
        asking = asyncio.create_task(client.post(chat, json=body("sketch", stream=False)))
        await eventually(lambda: parts.worker.num_running > 0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(parts.hold_nothing)
        parts.pool.self_check()
