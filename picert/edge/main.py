"""`picert-edge`: load the models, register with the cloud, work until told to stop.

The one place that builds an edge's parts, and the one that ends them in order: no new jobs, running
texts finish, the link closes, the engines stop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from picert.config import EdgeConfig
from picert.edge.change import ModelChange
from picert.edge.metrics import serving_metrics
from picert.edge.models import HeldModels
from picert.edge.worker import EdgeWorker
from picert.log import configure, get_logger
from picert.messages import AnswerJob, Cancel, ExpandJob, LoadModel
from picert.pice.prompts import load_prompts
from picert.transport.events import LinkLost
from picert.transport.link import PeerLink

logger = get_logger(__name__)


def run_edge(config: EdgeConfig, on_ready: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises PicertError for what stops it from starting.
    """
    configure(f"edge {config.name}", config.log_level, config.log_format)
    models = HeldModels(config)
    try:
        return asyncio.run(_serve(config, models, on_ready))
    finally:
        models.stop()


async def _serve(config: EdgeConfig, models: HeldModels, on_ready: Callable[[], None]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    link = PeerLink(config.link, models.hello(), models.load_now)
    worker = EdgeWorker(models.loops, load_prompts(), link)
    change = ModelChange(models, worker, link)
    await link.start()
    following = asyncio.create_task(_follow(link, worker, change))
    linking = asyncio.create_task(link.wait_linked(config.link.connect_timeout_s))
    stopping = asyncio.create_task(stop.wait())
    try:
        await _first_of(linking, stopping)
        if not stopping.done():
            logger.info("linked to %s", config.link.address)
            on_ready()
        with serving_metrics(config, models.loops, link, worker):
            await _first_of(following, stopping)
        await link.drain("the edge stops")
        await worker.drain(config.shutdown_timeout_s)
        return 0 if models.loops else 1
    finally:
        await link.close()
        await change.wait()
        for task in (following, linking, stopping):
            task.cancel()
        await asyncio.gather(following, linking, stopping, return_exceptions=True)


async def _first_of(work: asyncio.Task[None], stopping: asyncio.Task[bool]) -> None:
    """Until `work` is over, whose error is raised, or the process shall stop."""
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()


async def _follow(link: PeerLink, worker: EdgeWorker, change: ModelChange) -> None:
    """Hand on what the link reports, until it is closed."""
    async for event in link.events():
        if isinstance(event, LinkLost):
            logger.warning("link lost: %s", event.reason)
            await worker.drain(0.0)
        elif isinstance(event, ExpandJob | AnswerJob | Cancel):
            await worker.take(event)
        elif isinstance(event, LoadModel):
            change.begin(event.model)
