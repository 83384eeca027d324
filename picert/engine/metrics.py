"""EngineCollector: what engines count, as Prometheus families. Read when it is scraped, never
written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from picert.engine.stats import EngineStats, Histogram

PREFIX = "picert_"
_GAUGES: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("num_requests_running", "Texts that hold blocks", lambda s: s.num_running),
    ("num_requests_waiting", "Texts that wait for a place", lambda s: s.num_waiting),
    ("kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1", lambda s: s.kv_usage),
)
_COUNTERS: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("prefix_cache_queries", "Prompt tokens looked up", lambda s: s.prefix_queries),
    ("prefix_cache_hits", "Prompt tokens found", lambda s: s.prefix_hits),
    ("prompt_tokens", "Tokens of prompts that were read", lambda s: s.prompt_tokens),
    ("generation_tokens", "Tokens that were drawn", lambda s: s.completion_tokens),
    ("num_preemptions", "Times that a text lost its blocks", lambda s: s.preemptions),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[EngineStats], Histogram]], ...] = (
    ("inter_token_latency_seconds", "Between tokens of one text", lambda s: s.inter_token),
    ("request_queue_time_seconds", "From arrival to a place in a step", lambda s: s.queue),
    ("request_prefill_time_seconds", "From there to the first token", lambda s: s.prefill),
    ("request_decode_time_seconds", "From there to the last token", lambda s: s.decode),
)
# Where nobody stands above the engine, its requests are the requests.
_OF_REQUESTS: tuple[tuple[str, str, Callable[[EngineStats], Histogram]], ...] = (
    ("time_to_first_token_seconds", "From arrival to the first token", lambda s: s.first_token),
    ("e2e_request_latency_seconds", "From arrival to the end", lambda s: s.request),
)


class EngineCollector:
    """Families of engines, each labelled with its model's name. A registry asks it at each scrape.

    `with_requests` adds what a service above the engine would otherwise tell.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, EngineStats]], *, with_requests: bool
    ) -> None:
        self._read = read
        self._with_requests = with_requests

    def collect(self) -> Iterator[Metric]:
        """The families as of now."""
        stats = self._read()
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["model"])
            for model, of in stats.items():
                gauge.add_metric([model], value(of))
            yield gauge
        for name, text, value in _COUNTERS:
            counter = CounterMetricFamily(PREFIX + name, text, labels=["model"])
            for model, of in stats.items():
                counter.add_metric([model], value(of))
            yield counter
        for name, text, histogram in (*_HISTOGRAMS, *(_OF_REQUESTS if self._with_requests else ())):
            yield histogram_family(
                name, text, "model", {model: histogram(of) for model, of in stats.items()}
            )
        if self._with_requests:
            yield _finished(stats)


def histogram_family(
    name: str, text: str, label: str | None, histograms: Mapping[str, Histogram]
) -> HistogramMetricFamily:
    """One family of ours; without a label `histograms` has one entry."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=[label] if label else None)
    for value, histogram in histograms.items():
        family.add_metric([value] if label else [], histogram.cumulative(), histogram.sum)
    return family


def _finished(stats: Mapping[str, EngineStats]) -> CounterMetricFamily:
    family = CounterMetricFamily(
        PREFIX + "request_success", "Requests that ended", labels=["model", "finished_reason"]
    )
    for model, of in stats.items():
        for reason, count in list(of.finished.items()):
            family.add_metric([model, reason], count)
    return family
