"""Traces for OpenTelemetry: one span a question, and below it plan, sketch, expand, choose, merge.

An extra (`pip install picert[otel]`), loaded only when `--otlp-endpoint` is given. Spans are made
when a question has ended, of the moments that its draft noted; no text goes into them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from picert.cloud.draft import Draft


@dataclass(frozen=True, slots=True)
class _Part:
    """One span below a question's, in seconds from its acceptance."""

    name: str
    begins_s: float
    ends_s: float
    attributes: Mapping[str, str | int]


class Tracing:
    """Makes spans of drafts; `close` sends what is left."""

    def __init__(self, provider: TracerProvider, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("picert.cloud")
        self._wall_ns = wall_ns

    def record(self, draft: Draft) -> None:
        """The spans of a question that has ended; its caller's `traceparent` is their parent."""
        now_ns, elapsed_s = self._wall_ns(), draft.elapsed_s

        def at(seconds: float) -> int:
            return now_ns - round(1e9 * (elapsed_s - seconds))

        attributes: dict[str, Any] = {
            "picert.request_id": draft.request.request_id,
            "picert.route": draft.route,
            "picert.outcome": draft.outcome,
        }
        root = self._tracer.start_span("answer", start_time=at(0.0), attributes=attributes)
        below = trace.set_span_in_context(root)
        for part in parts_of(draft):
            span = self._tracer.start_span(
                part.name,
                context=below,
                start_time=at(part.begins_s),
                attributes=dict(part.attributes),
            )
            span.end(at(part.ends_s))
        root.end(now_ns)

    def traced(self, app: ASGIApp) -> ASGIApp:
        """`app`, whose requests go on with the trace that their `traceparent` header names."""

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            headers = Headers(scope=scope) if scope["type"] == "http" else {}
            token = context.attach(propagate.extract(dict(headers)))
            try:
                await app(scope, receive, send)
            finally:
                context.detach(token)

        return outer

    def close(self) -> None:
        """Send what is left; waits for the collector no longer than its exporter does."""
        self._provider.shutdown()


def tracing_to(endpoint: str) -> Tracing:
    """Traces that go to an OTLP collector's HTTP address."""
    provider = TracerProvider(resource=Resource.create({"service.name": "picert-cloud"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return Tracing(provider)


def parts_of(draft: Draft) -> Iterator[_Part]:
    """The stages of an answer, as far as it came."""
    known: dict[int, float] = {}
    for moment in draft.timeline:
        if moment.stage == "plan":
            yield _Part("plan", 0.0, moment.at_s, {})
        elif moment.stage == "sketch" and moment.index is not None:
            known[moment.index] = moment.at_s
        elif moment.stage == "segment_done" and moment.index is not None:
            told: dict[str, str | int] = {
                "picert.segment": moment.index,
                "picert.edge": moment.edge or "",
            }
            begins_s = known.get(moment.index, moment.at_s)
            yield _Part(f"expand[{moment.index}]", begins_s, moment.at_s, told)
            yield _Part("choose", moment.at_s, moment.at_s, told)
    if draft.sketch_s:
        planned_s = next((m.at_s for m in draft.timeline if m.stage == "plan"), 0.0)
        tokens = {"picert.tokens": draft.sketch_tokens}
        yield _Part("sketch", planned_s, draft.sketch_s, tokens)
    if draft.first_text_s is not None:
        yield _Part("merge", draft.first_text_s, draft.elapsed_s, {})
