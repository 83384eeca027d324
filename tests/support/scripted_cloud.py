"""A CloudService over a scripted cloud model and scripted edges, and a question to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from scripted import Reply, Script, ScriptedLink, ScriptedLoop, settle

from picert.cloud.edges import EdgePool
from picert.cloud.service import CloudService
from picert.config import CloudConfig, EngineConfig
from picert.messages import AnswerEvent, ChatMessage, Done, ExpandJob, Request, TextDelta
from picert.pice.prompts import load_prompts

QUESTION = "What are the most effective ways to deal with stress?"
SKETCH = [" Regular exercise\n", "2. Enough", " sleep\n", "3. Time with friends\n"]
TEXTS = {
    "Regular exercise": "Half an hour of walking lowers tension for the whole day.",
    "Enough sleep": "Seven hours of rest let the mind recover from pressure.",
    "Time with friends": "Talking about worries with people we trust makes them smaller.",
}
REPAIRED = "The cloud wrote this sentence because no edge could."
DIRECT = ["Take ", "walks ", "and ", "sleep ", "well."]


def script(sketch: Sequence[str] = tuple(SKETCH)) -> Script:
    def pieces(part: str) -> Sequence[str]:
        if part == "sketch":
            return sketch
        return [REPAIRED] if part.startswith("repair") else DIRECT

    return pieces


def write_all(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
    link.write(edge, job, " " + TEXTS[job.segments[0].text])


@asynccontextmanager
async def cloud(
    reply: Reply | None,
    *edges: str,
    says: Script | None = None,
    slots: int = 2,
    **config: object,
) -> AsyncIterator[tuple[CloudService, ScriptedLoop, ScriptedLink]]:
    """A service over scripted parts; at the end every table must be empty."""
    link, loop = ScriptedLink(reply), ScriptedLoop(says or script())
    pool = EdgePool(link)  # type: ignore[arg-type]
    settings = CloudConfig(engine=EngineConfig(model="large"), **config)
    service = CloudService(loop, pool, load_prompts(), settings)  # type: ignore[arg-type]
    serving = asyncio.create_task(pool.serve())
    link.join(*edges, slots=slots)
    await settle()
    yield service, loop, link
    await settle()
    pool.self_check()
    assert (service.num_in_flight, pool.num_open, loop.open) == (0, 0, set())
    link.happen(None)
    await serving


def request(route: str = "sketch", request_id: str = "r", **fields: object) -> Request:
    messages = (ChatMessage("user", QUESTION),)
    return Request(request_id=request_id, messages=messages, route=route, **fields)


async def ask(service: CloudService, asked: Request) -> tuple[str, Done]:
    events: list[AnswerEvent] = [event async for event in service.answer(asked)]
    assert [isinstance(event, Done) for event in events].count(True) == 1
    assert isinstance(events[-1], Done)
    return "".join(e.text for e in events if isinstance(e, TextDelta)), events[-1]
