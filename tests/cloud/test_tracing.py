"""Traces: the stages of an answer as spans, below whoever asked, without a word of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fake_engine import Clock
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripted import ByteTokens

from picert.cloud.draft import Draft
from picert.cloud.tracing import Tracing
from picert.messages import ChatMessage, Request

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider, wall_ns=lambda: 1_000_000_000_000)


def sketched() -> Draft:
    """Planned after 1 s, lines at 2 and 3 s, sketch done at 4 s, texts at 5 and 6 s, over at 7."""
    clock = Clock()
    messages = (ChatMessage("user", "a secret question"),)
    draft = Draft(Request(request_id="q1", messages=messages), ByteTokens(), clock)
    draft.route, draft.outcome = "sketch", "stop"
    for at, stage, fields in (
        (1.0, "plan", {"text": "sketch"}),
        (2.0, "sketch", {"index": 0, "text": "secret line"}),
        (3.0, "sketch", {"index": 1}),
        (5.0, "segment_done", {"index": 1, "edge": "kitchen"}),
        (6.0, "segment_done", {"index": 0, "edge": "cellar"}),
    ):
        clock.now = at
        draft.note(stage, **fields)  # type: ignore[arg-type]
    draft.sketch_s = 4.0
    clock.now = 7.0
    return draft


def test_stages_are_spans_below_the_answer(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    tracing.record(sketched())
    told: dict[str, Any] = {span.name: span for span in spans.get_finished_spans()}
    assert set(told) == {"answer", "plan", "sketch", "expand[0]", "expand[1]", "choose"}
    zero = 1_000_000_000_000 - 7_000_000_000
    times = {
        name: ((span.start_time - zero) / 1e9, (span.end_time - zero) / 1e9)
        for name, span in told.items()
        if name != "choose"
    }
    assert times == {
        "answer": (0.0, 7.0),
        "plan": (0.0, 1.0),
        "sketch": (1.0, 4.0),
        "expand[0]": (2.0, 6.0),
        "expand[1]": (3.0, 5.0),
    }
    root = told["answer"].context
    assert {span.parent.span_id for name, span in told.items() if name != "answer"} == {
        root.span_id
    }
    assert told["expand[1]"].attributes["picert.edge"] == "kitchen"


def test_no_text_goes_into_a_span(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    tracing.record(sketched())
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_spans_go_on_with_the_trace_of_the_caller(
    tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        tracing.record(sketched())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(tracing.traced(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
        await client.get("/", headers={"traceparent": PARENT})
        await client.get("/", headers={"traceparent": "nonsense"})
    traces = {
        trace.format_trace_id(span.context.trace_id)
        for span in spans.get_finished_spans()
        if span.name == "answer"
    }
    assert len(traces) == 2
    assert PARENT.split("-")[1] in traces
