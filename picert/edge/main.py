"""`picert-edge`: load the models, register with the cloud, work until told to stop.

The one place that builds an edge's parts, and the one that ends them in order: no new jobs, running
texts finish, the link closes, the engines stop.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable
from pathlib import Path

from picert import __version__, hub
from picert.config import EdgeConfig, EngineConfig
from picert.edge.metrics import serving_metrics
from picert.edge.worker import EdgeWorker
from picert.engine.engine import load_engine
from picert.engine.loop import EngineLoop
from picert.log import configure, get_logger
from picert.messages import AnswerJob, Cancel, ExpandJob, Hello, ModelInfo
from picert.pice.profile_file import profile_of
from picert.pice.prompts import load_prompts
from picert.transport.events import LinkLost, Load
from picert.transport.link import PeerLink

logger = get_logger(__name__)


def run_edge(config: EdgeConfig, on_ready: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises PicertError for what stops it from starting.
    """
    configure(f"edge {config.name}", config.log_level, config.log_format)
    loops = {engine.model: _load(engine) for engine in config.engines}
    try:
        return asyncio.run(_serve(config, loops, on_ready))
    finally:
        for loop in loops.values():
            loop.stop(config.shutdown_timeout_s)


def _load(config: EngineConfig) -> EngineLoop:
    path = hub.find(config.model)
    loop = EngineLoop(load_engine(config.model_copy(update={"model": str(path)})))
    gc.freeze()  # what is loaded stays: no full collection need walk it between two steps
    loop.start()
    return loop


async def _serve(
    config: EdgeConfig, loops: dict[str, EngineLoop], on_ready: Callable[[], None]
) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    link = PeerLink(config.link, _hello(config, loops), lambda: _load_of(loops))
    worker = EdgeWorker(loops, load_prompts(), link)
    await link.start()
    following = asyncio.create_task(_follow(link, worker))
    linking = asyncio.create_task(link.wait_linked(config.link.connect_timeout_s))
    stopping = asyncio.create_task(stop.wait())
    try:
        await _first_of(linking, stopping)
        if not stopping.done():
            logger.info("linked to %s", config.link.address)
            on_ready()
        with serving_metrics(config, loops, link, worker):
            await _first_of(following, stopping)
        await link.drain("the edge stops")
        await worker.drain(config.shutdown_timeout_s)
        return 0
    finally:
        await link.close()
        for task in (following, linking, stopping):
            task.cancel()
        await asyncio.gather(following, linking, stopping, return_exceptions=True)


async def _first_of(work: asyncio.Task[None], stopping: asyncio.Task[bool]) -> None:
    """Until `work` is over, whose error is raised, or the process shall stop."""
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()


async def _follow(link: PeerLink, worker: EdgeWorker) -> None:
    """Hand what the link reports to the worker, until the link is closed."""
    async for event in link.events():
        if isinstance(event, LinkLost):
            logger.warning("link lost: %s", event.reason)
            await worker.drain(0.0)
        elif isinstance(event, ExpandJob | AnswerJob | Cancel):
            await worker.take(event)


def _hello(config: EdgeConfig, loops: dict[str, EngineLoop]) -> Hello:
    engines = [loop.engine for loop in loops.values()]
    profiles = {
        name: profile_of(Path(config.profile), name, engine.identity.fingerprint)
        for name, engine in zip(loops, engines, strict=True)
        if config.profile is not None
    }
    return Hello(
        name=config.name,
        picert_version=__version__,
        models=tuple(
            ModelInfo(
                *(name, e.identity.fingerprint, e.identity.num_parameters, e.max_model_len),
                calibration=profiles[name].calibration if name in profiles else None,
            )
            for name, e in zip(loops, engines, strict=True)
        ),
        curves=tuple(profile.curve(name) for name, profile in profiles.items()),
        slots=sum(engine.config.max_num_seqs for engine in engines),
        kv_tokens=sum(engine.kv_tokens for engine in engines),
    )


def _load_of(loops: dict[str, EngineLoop]) -> Load:
    stats = [loop.stats() for loop in loops.values()]
    return Load(
        num_running=sum(s.num_running for s in stats),
        num_waiting=sum(s.num_waiting for s in stats),
        kv_usage=max(s.kv_usage for s in stats),
    )
