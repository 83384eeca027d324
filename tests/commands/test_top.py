"""`picert top`: what it shows of two moments, and what it says where there is nothing to see."""

from __future__ import annotations

import io
from collections.abc import Callable

import httpx
import pytest
from rich.console import Console

from picert.cli import main
from picert.commands.top import take, view
from picert.errors import InvalidRequest, Unavailable

EDGE = {
    "name": "kitchen",
    "state": "alive",
    "draining": False,
    "breaker": "closed",
    "available": True,
    "models": ["[red]small"],
    "slots": 4,
    "in_flight": 3,
    "rtt_ms": 1.25,
    "kv_usage": 0.5,
}


def metrics(answers: int) -> str:
    return f"""
# TYPE picert_num_requests_running gauge
picert_num_requests_running{{model="large"}} 2.0
# TYPE picert_route counter
picert_route_total{{route="sketch",reason="policy"}} {answers}.0
# TYPE picert_request_success counter
picert_request_success_total{{finished_reason="stop"}} {answers}.0
"""


def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://cloud")


def cloud(answers: int) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text=metrics(answers))
        return httpx.Response(200, json={"edges": [EDGE]})

    return client(answer)


def shown(before: int, now: int, seconds: float) -> str:
    with cloud(before) as first, cloud(now) as second:
        one, two = take(first), take(second)
    object.__setattr__(two, "at", one.at + seconds)
    screen = io.StringIO()
    Console(file=screen, width=120).print(view(one, two))
    return screen.getvalue()


def test_screen_tells_edges_queues_routes_and_rates() -> None:
    text = shown(10, 30, 4.0)
    assert "running 2" in text
    assert "answers/s 5.0" in text
    assert "kitchen" in text
    assert "[red]small" in text  # an edge's words are no markup
    assert "3 of 4" in text
    assert "50 %" in text
    assert "1.2 ms" in text
    (row,) = [line for line in text.splitlines() if "policy sketch" in line]
    assert "30" in row
    assert "5.0" in row


@pytest.mark.parametrize(
    ("status", "error"), [(401, InvalidRequest), (403, InvalidRequest), (500, Unavailable)]
)
def test_cloud_that_does_not_tell_is_named(status: int, error: type[Exception]) -> None:
    with client(lambda _: httpx.Response(status)) as closed, pytest.raises(error):
        take(closed)


def test_no_cloud_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--url", "http://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
