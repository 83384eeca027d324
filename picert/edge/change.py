"""ModelChange: what an edge does when its cloud asks for another model: one at a time, and never
while a text is written by a model that has to go.

Where there is room the model is loaded beside those that write; else they finish first. Either way
the edge takes nothing new for a moment and registers anew with what it holds then.
"""

from __future__ import annotations

import asyncio
import contextlib

from picert.edge.models import HeldModels
from picert.edge.worker import EdgeWorker
from picert.errors import EdgeLost, PicertError, Unavailable
from picert.log import get_logger
from picert.messages import Failure
from picert.transport.link import PeerLink

logger = get_logger(__name__)
FINISH_S = 120.0  # for texts that are being written; a model that does not get rid of them stays


class ModelChange:
    """Carries out LoadModel."""

    def __init__(
        self,
        models: HeldModels,
        worker: EdgeWorker,
        link: PeerLink,
        finish_s: float = FINISH_S,
    ) -> None:
        self._models = models
        self._worker = worker
        self._link = link
        self._finish_s = finish_s
        self._task: asyncio.Task[None] | None = None

    def begin(self, name: str) -> None:
        """Load a model in the background. Harmless while another is being loaded: the cloud asks
        again when it has heard what came of that."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(name))

    async def wait(self) -> None:
        """Until the load that runs, if there is one, is over; a thread cannot be cancelled."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, name: str) -> None:
        has_paused = False
        try:
            if self._models.in_the_way(name):
                has_paused = True
                await self._pause(name)
            await self._models.load(name)
        except PicertError as error:
            await self._tell(name, error)
        if not self._models.loops:  # what it had could not be loaded again, either
            logger.error("no model is held any more: this edge stops")
            await self._link.close("no model is held")
            return
        if not has_paused:
            with contextlib.suppress(Unavailable):
                await self._pause(name)
        await self._worker.drain(0.0)  # what does not end is given to other edges
        await self._link.introduce(self._models.hello())

    async def _pause(self, name: str) -> None:
        """Nothing new comes, and what is being written ends. Raises Unavailable if it does not."""
        await self._link.pause(f"it changes to {name[:64]}")
        if not await self._worker.wait_idle(self._finish_s):
            raise Unavailable(f"texts are still being written after {self._finish_s:g} s")

    async def _tell(self, name: str, error: PicertError) -> None:
        logger.warning("model %s: %s", name[:64], error.message)
        code, message = error.code or error.kind, f"{name[:64]}: {error.message}"
        with contextlib.suppress(EdgeLost):
            await self._link.send(Failure(request_id="", attempt=0, code=code, message=message))
