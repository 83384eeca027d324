"""A cloud or an edge with an author in it, as a process of its own: everything but the model is
what `picert-cloud` and `picert-edge` run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from author import author_engine

from picert import __version__
from picert.cloud import main as cloud
from picert.cloud.door import open_door
from picert.config import CloudConfig, EdgeConfig
from picert.edge import main as edge
from picert.engine.loop import EngineLoop
from picert.log import configure
from picert.messages import Hello, ModelInfo, SamplingParams
from picert.transport.events import Load


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
    models = Authors(config, step_s)
    try:
        return asyncio.run(edge._serve(config, models, lambda: say("linked")))
    finally:
        models.stop()


class Authors:
    """What an edge asks of its models, with one author for all of them."""

    def __init__(self, config: EdgeConfig, step_s: float) -> None:
        self._config = config
        engine = _engine(config.engines[0], step_s)
        loop = EngineLoop(engine)
        self.loops = {engine.identity.name: loop}
        loop.start()

    def hello(self) -> Hello:
        """What the cloud is told."""
        (loop,) = self.loops.values()
        engine = loop.engine
        identity = engine.identity
        info = ModelInfo(
            *(identity.name, identity.fingerprint, identity.num_parameters, engine.max_model_len)
        )
        return Hello(
            name=self._config.name,
            picert_version=__version__,
            models=(info,),
            slots=engine.config.max_num_seqs,
            kv_tokens=engine.kv_tokens,
        )

    def load_now(self) -> Load:
        """How busy they are."""
        (loop,) = self.loops.values()
        stats = loop.stats()
        return Load(stats.num_running, stats.num_waiting, stats.kv_usage)

    def stop(self) -> None:
        """End them."""
        for loop in self.loops.values():
            loop.stop(5.0)


def _engine(config, step_s):
    values = config.model_dump(exclude={"model"}, exclude_unset=True)
    return author_engine(config.model, step_s, **values)


if __name__ == "__main__":
    kind, text, seconds = sys.argv[1:]
    if kind == "cloud":
        sys.exit(run_cloud(CloudConfig.model_validate_json(text), float(seconds)))
    sys.exit(run_edge(EdgeConfig.model_validate_json(text), float(seconds)))
