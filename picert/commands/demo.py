"""`picert demo`: a cloud and edges as real processes on this machine, one question, and what it
gained.

The question is asked twice, as the cloud likes and then directly, so that the last table compares
like with like.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from picert import hub
from picert.client import Answer, ProgressiveClient
from picert.commands.demo_view import View, new_view
from picert.commands.processes import Children, until_told
from picert.errors import PicertError, Unavailable
from picert.messages import Done, Route, SamplingParams, TextDelta

_START_S = 180.0  # for a server to load its model
_ASK_S = 300.0  # for one answer
_POLL_S = 0.1
_READY = re.compile(r"picert-cloud ready: (?P<url>\S+) edges: (?P<edges>\S+)")
Answers = tuple[Answer, Answer]  # as the cloud likes, and direct


def run(flags: argparse.Namespace) -> int:
    """Fetch what is missing, start, ask, compare, and end every process. Raises PicertError."""
    models = [flags.cloud_model, *(flags.edge_models or flags.default_edge_models)]
    for model in models:
        hub.pull(model)
    view = new_view(sys.stderr if flags.json else sys.stdout)
    with tempfile.TemporaryDirectory(prefix="picert-demo-") as folder:
        answers = asyncio.run(until_told(_demo(flags, models, Path(folder), view)))
    if answers is None:
        return 128 + signal.SIGTERM
    if flags.json:
        report = _report(flags.question, *answers)
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    return 0


async def _demo(
    flags: argparse.Namespace, models: Sequence[str], folder: Path, view: View
) -> Answers:
    async with Children(folder) as children:
        url = await _start(children, flags, models, view)
        asking = asyncio.create_task(_ask_twice(url, flags, view))
        dying = asyncio.create_task(children.first_death())
        try:
            await asyncio.wait({asking, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise dying.result()
            return asking.result()
        finally:
            for task in (asking, dying):
                task.cancel()
            await asyncio.gather(asking, dying, return_exceptions=True)


async def _start(
    children: Children, flags: argparse.Namespace, models: Sequence[str], view: View
) -> str:
    """Start one cloud, then the edges at once; the cloud's URL, when all of them are ready."""
    cloud_model, *edge_models = models
    threads = ["--threads", str(flags.threads)] if flags.threads else []
    anywhere = ["--port", "0", "--edge-bind", "tcp://127.0.0.1:0"]
    view.say(f"starting the cloud with {cloud_model} …")
    cloud = await children.start(
        "cloud", "cloud_main", ["--model", cloud_model, *anywhere, *threads]
    )
    line = await cloud.ready_line(_START_S)
    match = _READY.fullmatch(line)
    if match is None:
        raise PicertError(f"the cloud said {line!r} where its ready line was expected")
    edges = []
    for number, model in enumerate(edge_models, start=1):
        view.say(f"starting edge-{number} with {model} …")
        name = f"edge-{number}"
        where = ["--cloud", match["edges"], "--name", name, "--threads", "1"]
        edges.append(await children.start(name, "edge_main", ["--model", model, *where]))
    await asyncio.gather(*(edge.ready_line(_START_S) for edge in edges))
    await _edges_are_ready(match["url"], len(edges))
    view.say(f"ready at {match['url']}")
    return match["url"]


async def _edges_are_ready(url: str, wanted: int) -> None:
    deadline = time.monotonic() + _START_S
    names: list[str] = []
    async with ProgressiveClient(url) as client:
        while time.monotonic() < deadline:
            with suppress(Unavailable):
                names = await client.ready_edges()
            if len(names) >= wanted:
                return
            await asyncio.sleep(_POLL_S)
    raise PicertError(f"after {_START_S:.0f} s the cloud has {len(names)} of {wanted} edges")


async def _ask_twice(url: str, flags: argparse.Namespace, view: View) -> Answers:
    question, max_tokens = flags.question, flags.max_tokens
    chosen = await _ask(url, question, "auto", max_tokens, view)
    direct = await _ask(url, question, "direct", max_tokens, view)
    view.rows(
        ("asked", "route", "first text", "total", "cloud tokens", "edge tokens"),
        [_row("auto", chosen.done), _row("direct", direct.done)],
    )
    gain = direct.done.total_s / max(chosen.done.total_s, 1e-6)
    view.say(f"{gain:.1f} times as fast as the direct answer")
    return chosen, direct


async def _ask(url: str, question: str, route: Route, max_tokens: int, view: View) -> Answer:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    text: list[str] = []
    view.begin(f"{question} (route: {route})")
    try:
        async with ProgressiveClient(url) as client:
            events = client.stream(
                question, route=route, sampling=sampling, deadline_s=_ASK_S, progress=True
            )
            async with aclosing(events):
                async for event in events:
                    view.event(event)
                    if isinstance(event, TextDelta):
                        text.append(event.text)
    finally:
        view.end()
    assert isinstance(event, Done), "the client ends with Done or an error"
    return Answer("".join(text), event)


def _row(asked: str, done: Done) -> tuple[str, ...]:
    return (
        *(asked, done.route, f"{done.first_text_s:.1f} s", f"{done.total_s:.1f} s"),
        str(done.usage.cloud_completion_tokens),
        str(done.usage.edge_completion_tokens),
    )


def _report(question: str, answer: Answer, direct: Answer) -> dict[str, Any]:
    """What `--json` prints."""
    done, usage = answer.done, answer.done.usage
    return {
        "question": question,
        "answer": answer.text,
        "route": done.route,
        "reasons": list(done.reasons),
        "segments": [
            {"text": s.text, "expansion": s.expansion, "edge": s.edge, "tokens": s.tokens}
            for s in done.segments
        ],
        "cloud_prompt_tokens": usage.cloud_prompt_tokens,
        "cloud_completion_tokens": usage.cloud_completion_tokens,
        "edge_prompt_tokens": usage.edge_prompt_tokens,
        "edge_completion_tokens": usage.edge_completion_tokens,
        "first_text_ms": round(done.first_text_s * 1000, 1),
        "total_ms": round(done.total_s * 1000, 1),
        "direct": {
            "answer": direct.text,
            "completion_tokens": direct.done.completion_tokens,
            "total_ms": round(direct.done.total_s * 1000, 1),
        },
    }
