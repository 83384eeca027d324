"""Whether a question would be answered now, and the way down. Asked by probes, so it is cheap."""

from __future__ import annotations

import asyncio

from picert.cloud.admission import Admission
from picert.cloud.edges import EdgePool
from picert.cloud.http import Health
from picert.engine.loop import EngineLoop
from picert.log import get_logger

logger = get_logger(__name__)


def health(
    loop: EngineLoop, admission: Admission, pool: EdgePool, following: asyncio.Task[None]
) -> Health:
    """Ready is deep: questions are taken, the link is followed, the engine lives and, while it has
    work, made a step not long ago."""
    edges = tuple(view.name for view in pool.roster.views() if view.is_available)
    if following.done():
        return Health("the link to the edges is closed", edges)
    if not loop.is_alive:
        return Health("the engine has stopped", edges)
    if admission.is_draining:
        return Health("draining: nothing new is taken", edges)
    if (stalled := loop.seconds_stalled()) > loop.patience_s():
        return Health(f"the engine made no step for {stalled:.1f} s", edges)
    return Health(None, edges)


async def wind_down(
    told: asyncio.Event, admission: Admission, stop: asyncio.Event, timeout_s: float
) -> None:
    """Once told to end: new questions hear `draining` while those in flight get their time."""
    await told.wait()
    admission.drain()
    logger.info("draining, %d questions are in flight", admission.num_inside)
    await admission.wait_idle(timeout_s)
    stop.set()
