"""`picert top`: what a running cloud does, live: edges, queues, routes and rates."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from picert.config import from_environment
from picert.errors import InvalidRequest, Unavailable

Sample = tuple[str, tuple[tuple[str, str], ...]]  # name without its prefix, labels


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the cloud said at one moment."""

    at: float
    samples: Mapping[Sample, float]
    edges: tuple[Mapping[str, Any], ...]

    def total(self, name: str) -> float:
        """Sum of a metric over its labels."""
        return sum(value for (known, _), value in self.samples.items() if known == name)

    def by(self, name: str) -> dict[str, float]:
        """A metric's values by what its labels say."""
        return {
            " ".join(value for _, value in labels): number
            for (known, labels), number in self.samples.items()
            if known == name
        }


def run(flags: argparse.Namespace) -> int:
    """Look until interrupted, or once. Raises PicertError where there is nothing to see."""
    key = flags.api_key or from_environment("admin_api_key") or from_environment("api_key")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    console = Console()
    with httpx.Client(base_url=flags.url, headers=headers, timeout=5.0, trust_env=False) as client:
        before = take(client)
        if flags.once:
            console.print(view(before, before))
            return 0
        with Live(view(before, before), console=console, screen=console.is_terminal) as live:
            while True:
                time.sleep(flags.interval)
                now = take(client)
                live.update(view(before, now))
                before = now
                if not console.is_terminal:
                    sys.stdout.flush()


def take(client: httpx.Client) -> Snapshot:
    """Ask the cloud. Raises Unavailable or InvalidRequest."""
    try:
        metrics, edges = client.get("/metrics"), client.get("/admin/edges")
    except httpx.TransportError as error:
        raise Unavailable(f"no cloud answers at {client.base_url} ({error})") from None
    for response in (metrics, edges):
        if response.status_code in (401, 403):
            raise InvalidRequest("the cloud wants an admin key: give --api-key KEY")
        if response.status_code != 200:
            raise Unavailable(f"{client.base_url} answers {response.status_code}: is it a cloud?")
    samples = {
        (sample.name.removeprefix("picert_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text)
        for sample in family.samples
    }
    return Snapshot(time.monotonic(), samples, tuple(edges.json()["edges"]))


def view(before: Snapshot, now: Snapshot) -> RenderableType:
    """One screen: rates are over the time between the two."""
    return Group(
        _headline(before, now),
        _edges(now),
        Columns(
            [
                _counts("routes", before, now, "route_total"),
                _counts("ends", before, now, "request_success_total"),
                _counts("refused", before, now, "request_refused_total"),
                _counts("fallbacks", before, now, "fallback_total"),
            ]
        ),
    )


def _headline(before: Snapshot, now: Snapshot) -> Text:
    seconds = max(1e-9, now.at - before.at)

    def rate(name: str) -> float:
        return (now.total(name) - before.total(name)) / seconds

    kv = max(now.by("kv_cache_usage_perc").values(), default=0.0)
    return Text(
        f"running {now.total('num_requests_running'):.0f}  "
        f"waiting {now.total('num_requests_waiting'):.0f}  "
        f"jobs waiting {now.total('dispatch_queue_depth'):.0f}  "
        f"KV {100 * kv:.0f} %  "
        f"answers/s {rate('request_success_total'):.1f}  "
        f"cloud tokens/s {rate('generation_tokens_total'):.1f}  "
        f"saved tokens/s {rate('cloud_tokens_saved_total'):.1f}  "
        f"first text {1000 * _mean(before, now, 'time_to_first_token_seconds'):.0f} ms"
    )


def _mean(before: Snapshot, now: Snapshot, name: str) -> float:
    """Of what was observed between the two, of all ever seen where that is nothing."""
    count = now.total(f"{name}_count") - before.total(f"{name}_count")
    if count:
        return (now.total(f"{name}_sum") - before.total(f"{name}_sum")) / count
    return now.total(f"{name}_sum") / max(1.0, now.total(f"{name}_count"))


def _edges(now: Snapshot) -> Table:
    table = Table("edge", "state", "models", "jobs", "KV", "round trip", expand=True)
    for edge in now.edges:
        state = "draining" if edge["draining"] else edge["state"]
        if edge["breaker"] != "closed":
            state += f", breaker {edge['breaker']}"
        table.add_row(
            edge["name"],
            Text(state, "green" if edge["available"] else "red"),
            Text(", ".join(edge["models"])),
            f"{edge['in_flight']} of {edge['slots']}",
            "" if edge["kv_usage"] is None else f"{100 * edge['kv_usage']:.0f} %",
            "" if edge["rtt_ms"] is None else f"{edge['rtt_ms']:.1f} ms",
        )
    return table


def _counts(title: str, before: Snapshot, now: Snapshot, name: str) -> Table:
    table = Table(title, "all", "/s")
    seconds = max(1e-9, now.at - before.at)
    then = before.by(name)
    for label, count in sorted(now.by(name).items()):
        rate = (count - then.get(label, 0.0)) / seconds
        table.add_row(label, f"{count:.0f}", f"{rate:.1f}")
    return table
