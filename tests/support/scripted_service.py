"""A service at the front door's protocol boundary that plays a written script, and notes what
became of each request.

A script is a list of events, errors to raise, and `asyncio.Event`s to wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from tiny_vocab import tiny_gguf_tokenizer

from picert.cloud.exchange import ModelFacts
from picert.cloud.http import Health, HttpLimits, ServedModel, create_app
from picert.cloud.server import ServerOptions, bind, serve
from picert.messages import (
    AnswerEvent,
    Done,
    Progress,
    Request,
    SamplingParams,
    SegmentReport,
    TextDelta,
    Usage,
)

WAIT_S = 10.0  # for anything that should come at once
Step = AnswerEvent | Exception | asyncio.Event

DONE = Done(
    request_id="",
    finish_reason="stop",
    route="sketch",
    reasons=("a long answer in points",),
    segments=(
        SegmentReport(text="Walk", expansion="Walk.", edge="a", model="m", tokens=2, attempts=1),
        SegmentReport(text="Rest", expansion="Rest.", edge="b", model="m", tokens=3, attempts=2),
        SegmentReport(text="Eat", expansion="Eat.", edge="a", model="m", tokens=2, attempts=1),
    ),
    usage=Usage(
        cloud_prompt_tokens=40,
        cloud_completion_tokens=12,
        cloud_cached_tokens=30,
        edge_prompt_tokens=90,
        edge_completion_tokens=7,
    ),
    prompt_tokens=9,
    completion_tokens=7,
    queue_s=0.004,
    sketch_s=0.25,
    first_text_s=0.3,
    total_s=1.5,
)


class ScriptedService:
    """Answers every request with the same script; `requests`, `num_open` and `num_closed` tell what
    happened.
    """

    def __init__(self, script: Sequence[Step]) -> None:
        self.script = list(script)
        self.requests: list[Request] = []
        self.num_open = 0
        self.num_closed = 0
        self.begun = asyncio.Event()

    async def answer(self, request: Request) -> AsyncGenerator[AnswerEvent, None]:
        """Play the script; events get the request's id."""
        self.requests.append(request)
        self.num_open += 1
        self.begun.set()
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield msgspec.structs.replace(step, request_id=request.request_id)
        finally:
            self.num_open -= 1
            self.num_closed += 1


def plan(route: str = "sketch") -> Progress:
    """The event that a service tells its plan with."""
    return Progress(request_id="", stage="plan", text=route)


def text(content: str, index: int = 0) -> TextDelta:
    """More of the answer."""
    return TextDelta("", index, 0, content)


def facts(sampling: SamplingParams | None = None) -> ModelFacts:
    """Of a model with the tiny tokenizer."""
    return ModelFacts(tiny_gguf_tokenizer(), 512, sampling or SamplingParams())


@asynccontextmanager
async def running(
    service: ScriptedService,
    shutdown_timeout_s: float = 1.0,
) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A served application: its URL, and the event that stops it."""
    app = create_app(
        *(service, Health, [ServedModel("m", 0)], facts()),
        HttpLimits(keep_alive_s=0.05, max_body_bytes=10_000),
    )
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            *(app, bind("127.0.0.1", 0)),
            ready=port.set_result,
            stop=stop,
            options=ServerOptions(shutdown_timeout_s),
        )
    )
    try:
        yield f"http://127.0.0.1:{await asyncio.wait_for(port, WAIT_S)}", stop
    finally:
        stop.set()
        await asyncio.wait_for(task, WAIT_S)
