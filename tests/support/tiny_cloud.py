"""A cloud with a tiny random model in this process: the real engine, service and front door, no
edges.

What the model writes is noise, but the same noise for the same seed, and whatever a mask allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI
from scripted import ScriptedLink
from tiny_models import make_gguf

from picert.cloud.edges import EdgePool
from picert.cloud.exchange import ModelFacts
from picert.cloud.http import Health, ServedModel, create_app
from picert.cloud.service import CloudService
from picert.config import CloudConfig, EngineConfig
from picert.engine.engine import Engine, load_engine
from picert.engine.loop import EngineLoop
from picert.messages import SamplingParams
from picert.pice.prompts import load_prompts

NAME = "tiny"
CONTEXT = 1024
# Calls functions as Hermes and Qwen do.
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n<tools>{% for tool in tools %}{{ tool | tojson }}\n"
    '{% endfor %}</tools> as <tool_call>{"name": <name>, "arguments": <args>}</tool_call>'
    "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_engine(
    folder: Path, chat_template: str | None = TOOLS_TEMPLATE, kv_tokens: int = 4096
) -> Engine:
    """An engine of the tiny model, on one thread, with a context of CONTEXT tokens."""
    config = EngineConfig(
        model=str(make_gguf(folder, "qwen2", max_position_embeddings=CONTEXT)),
        threads=1,
        kv_tokens=kv_tokens,
        chat_template=chat_template,
    )
    return load_engine(config)


@asynccontextmanager
async def tiny_app(engine: Engine) -> AsyncIterator[FastAPI]:
    """The application over `engine`; at the end nothing may be left in flight."""
    loop = EngineLoop(engine)
    loop.start()
    link = ScriptedLink()
    pool = EdgePool(link)  # type: ignore[arg-type]
    serving = asyncio.create_task(pool.serve())
    config = CloudConfig(engine=engine.config)
    service = CloudService(loop, pool, load_prompts(), config)
    facts = ModelFacts(engine.tokenizer, engine.max_model_len, SamplingParams(max_tokens=24))
    try:
        yield create_app(service, Health, [ServedModel(NAME, 1_700_000_000)], facts)
        assert (service.num_in_flight, loop.num_requests) == (0, 0)
    finally:
        loop.stop()
        link.happen(None)
        await serving


@asynccontextmanager
async def tiny_door(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `tiny_app`, without a socket."""
    async with tiny_app(engine) as app:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
            yield client
