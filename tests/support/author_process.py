"""A cloud or an edge with an author in it, as a process of its own: everything but the model is
what `picert-cloud` and `picert-edge` run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from author import author_engine

from picert.cloud import main as cloud
from picert.cloud.door import open_door
from picert.config import CloudConfig, EdgeConfig
from picert.edge import main as edge
from picert.engine.loop import EngineLoop
from picert.log import configure
from picert.messages import SamplingParams


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_cloud(config: CloudConfig, step_s: float) -> int:
    configure("cloud", config.log_level)
    loop = EngineLoop(_engine(config.engine, step_s))
    loop.start()
    try:
        greedy = SamplingParams(temperature=0.0, max_tokens=2000)
        door = open_door(config)
        ready = lambda url, address: say(f"{url} {address}")  # noqa: E731
        return asyncio.run(cloud._serve(config, loop, door, greedy, ready))
    finally:
        loop.stop(5.0)


def run_edge(config: EdgeConfig, step_s: float) -> int:
    configure(f"edge {config.name}", config.log_level)
    loop = EngineLoop(_engine(config.engines[0], step_s))
    loop.start()
    try:
        return asyncio.run(
            edge._serve(config, {loop.engine.identity.name: loop}, lambda: say("linked"))
        )
    finally:
        loop.stop(5.0)


def _engine(config, step_s):
    values = config.model_dump(exclude={"model"}, exclude_unset=True)
    return author_engine(config.model, step_s, **values)


if __name__ == "__main__":
    kind, text, seconds = sys.argv[1:]
    if kind == "cloud":
        sys.exit(run_cloud(CloudConfig.model_validate_json(text), float(seconds)))
    sys.exit(run_edge(EdgeConfig.model_validate_json(text), float(seconds)))
