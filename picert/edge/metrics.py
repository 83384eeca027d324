"""`/metrics` of an edge: its engines and its link, on a port of its own if one is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric

from picert.config import EdgeConfig
from picert.edge.worker import EdgeWorker
from picert.engine.loop import EngineLoop
from picert.engine.metrics import PREFIX, EngineCollector
from picert.errors import ConfigError
from picert.transport.link import PeerLink

_END_S = 5.0  # that the server gets to end; its thread does not hold the process


@contextmanager
def serving_metrics(
    config: EdgeConfig, loops: Mapping[str, EngineLoop], link: PeerLink, worker: EdgeWorker
) -> Iterator[int | None]:
    """Serve them while the block runs; the port, None if none was asked for. Raises ConfigError."""
    if config.metrics_port is None:
        yield None
        return
    registry = CollectorRegistry(auto_describe=False)
    # Which models are held changes, and a scrape comes on a thread of its own.
    registry.register(
        EngineCollector(
            lambda: {name: loop.stats() for name, loop in dict(loops).items()}, with_requests=True
        )
    )
    registry.register(_LinkCollector(config.name, link, worker))
    try:
        server, thread = start_http_server(config.metrics_port, config.metrics_host, registry)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {config.metrics_host} port {config.metrics_port}: "
            f"{error.strerror or error}: give another --metrics-port",
            param="metrics_port",
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_END_S)


class _LinkCollector:
    def __init__(self, name: str, link: PeerLink, worker: EdgeWorker) -> None:
        self._name = name
        self._link = link
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """The families as of now."""
        linked, rtt_s = self._link.is_linked, self._link.rtt_s
        for metric, text, value in (
            ("edge_up", "1: linked to its cloud", float(linked)),
            ("edge_rtt_seconds", "Of its last beat", rtt_s if linked else None),
            ("edge_texts", "Texts that it writes", float(self._worker.num_running)),
        ):
            family = GaugeMetricFamily(PREFIX + metric, text, labels=["edge"])
            if value is not None:
                family.add_metric([self._name], value)
            yield family
