"""`/metrics` of the cloud: its engine, its service and its edges in one registry of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from picert.cloud.edges import EdgePool
from picert.cloud.tally import Tally
from picert.engine.loop import EngineLoop
from picert.engine.metrics import PREFIX, EngineCollector, histogram_family
from picert.engine.stats import Histogram
from picert.transport.link import ServerLink


def new_registry(
    loop: EngineLoop, tally: Tally, pool: EdgePool, link: ServerLink
) -> CollectorRegistry:
    """Everything that the cloud tells."""
    registry = CollectorRegistry(auto_describe=False)
    name = loop.engine.identity.name
    registry.register(EngineCollector(lambda: {name: loop.stats()}, with_requests=False))
    registry.register(_ServiceCollector(tally))
    registry.register(_EdgesCollector(pool, link))
    return registry


def add_metrics(app: FastAPI, registry: CollectorRegistry) -> None:
    """Let `app` be scraped."""

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _ServiceCollector:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        """The families as of now."""
        tally = self._tally
        yield _counter(
            "route", "Answers by route and why", ("route", "reason"), tally.routes.items()
        )
        yield _counter(
            "request_success",
            "Accepted questions by how they ended",
            ("finished_reason",),
            _one(tally.finished),
        )
        yield _counter("request_refused", "Questions not taken", ("code",), _one(tally.refused))
        yield _counter(
            "fallback", "Work done again or elsewhere", ("stage", "reason"), tally.fallbacks.items()
        )
        yield _counter("ensemble_wins", "Segments by whose text won", ("model",), _one(tally.wins))
        yield _counter(
            "cloud_checks", "Choices that the cloud was asked of", ("outcome",), _one(tally.checks)
        )
        yield CounterMetricFamily(
            PREFIX + "cloud_tokens_saved",
            "Tokens of answers that the cloud did not write",
            value=tally.tokens_saved,
        )
        for name, text, histogram in _histograms(tally):
            yield histogram_family(name, text, None, {"": histogram})


class _EdgesCollector:
    def __init__(self, pool: EdgePool, link: ServerLink) -> None:
        self._pool = pool
        self._link = link

    def collect(self) -> Iterator[Metric]:
        """The families as of now."""
        up = GaugeMetricFamily(
            PREFIX + "edge_up", "1: takes jobs; 0: not, or gone", labels=["edge"]
        )
        for name, is_up in self._pool.roster.known().items():
            up.add_metric([name], float(is_up))
        yield up
        rtt = GaugeMetricFamily(PREFIX + "edge_rtt_seconds", "Of its last beat", labels=["edge"])
        for name, peer in self._link.peers.items():
            if peer.load is not None and peer.load.rtt_s is not None:
                rtt.add_metric([name], peer.load.rtt_s)
        yield rtt
        depth = GaugeMetricFamily(
            PREFIX + "dispatch_queue_depth", "Jobs that wait for an edge", labels=["list"]
        )
        for label, count in self._pool.queue_depths().items():
            depth.add_metric([label], count)
        yield depth
        yield _counter(
            "model_switches",
            "Times that an edge was given another model",
            ("reason",),
            _one(self._pool.roster.switches),
        )
        yield histogram_family(
            "expansion_seconds", "Of one segment at its edge", None, {"": self._pool.expansion_s}
        )
        for name, text, value in (
            ("edge_failures", "Edges lost with jobs, and jobs failed", self._failures),
            ("link_rejected_messages", "Not ours, dropped", self._link.rejected),
            ("link_refused_keys", "Connections with unknown keys", self._link.num_refused),
        ):
            yield CounterMetricFamily(PREFIX + name, text, value=value)

    @property
    def _failures(self) -> int:
        return self._pool.num_lost + self._pool.num_failed


def _histograms(tally: Tally) -> tuple[tuple[str, str, Histogram], ...]:
    return (
        ("time_to_first_token_seconds", "To the first visible text", tally.first_text),
        ("sketch_first_token_seconds", "To the sketch's first token", tally.sketch_first_token),
        ("e2e_request_latency_seconds", "From acceptance to the end", tally.whole),
        ("sketch_tokens", "Tokens of a sketch", tally.sketch_tokens),
        ("predicted_length_error_tokens", "Plan against direct answer", tally.length_error),
        ("ensemble_confidence", "In the text that was judged", tally.confidence),
    )


def _one(counts: Mapping[str, int]) -> list[tuple[tuple[str, ...], int]]:
    return [((key,), count) for key, count in counts.items()]


def _counter(
    name: str, text: str, labels: tuple[str, ...], counts: Iterable[tuple[tuple[str, ...], int]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, count in counts:
        family.add_metric(values, count)
    return family
