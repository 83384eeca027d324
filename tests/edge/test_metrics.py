"""An edge's own metrics: on a port, while it runs, and only if one is asked for."""

from __future__ import annotations

from contextlib import closing
from socket import create_server
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fake_engine import fake_engine

from picert.config import EdgeConfig, EngineConfig
from picert.edge.metrics import serving_metrics
from picert.errors import ConfigError
from picert.messages import SamplingParams


def parts() -> tuple[Any, Any, Any]:
    engine = fake_engine()
    engine.add("q", [1, 2, 3], SamplingParams(temperature=0.0, max_tokens=3))
    while engine.has_work:
        engine.step()
    loops = {"small": SimpleNamespace(stats=lambda: engine.stats)}
    return loops, SimpleNamespace(is_linked=True, rtt_s=0.002), SimpleNamespace(num_running=0)


def config(port: int | None) -> EdgeConfig:
    return EdgeConfig(engines=(EngineConfig(model="small"),), name="kitchen", metrics_port=port)


def test_edge_tells_of_its_engine_and_its_link() -> None:
    with serving_metrics(config(0), *parts()) as port:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert 'picert_edge_up{edge="kitchen"} 1.0' in text
    assert 'picert_edge_rtt_seconds{edge="kitchen"} 0.002' in text
    assert 'picert_generation_tokens_total{model="small"} 3.0' in text
    assert 'picert_time_to_first_token_seconds_count{model="small"} 1.0' in text
    assert 'picert_request_success_total{finished_reason="length",model="small"} 1.0' in text


def test_no_port_no_server() -> None:
    with serving_metrics(config(None), *parts()) as port:
        assert port is None


def test_port_that_is_taken_is_refused_by_name() -> None:
    with closing(create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match="--metrics-port"),
            serving_metrics(config(port), *parts()),
        ):
            pass
