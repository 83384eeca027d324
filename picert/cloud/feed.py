"""Feed: the events of one answer, read one at a time by whoever writes the response; and the wait
for a client to leave.

The service's iterator must not be cancelled by a reader that only wanted to look up (to send a
keep-alive), and must be closed whatever ends the response; both are settled here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

from picert.errors import Cancelled, PicertError
from picert.log import get_logger
from picert.messages import AnswerEvent, Done, Progress, TextDelta

logger = get_logger(__name__)
T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]  # ASGI's


class Feed:
    """Owns one iterator of the service; `close` ends it and all that it holds."""

    def __init__(self, events: AsyncGenerator[AnswerEvent, None], request_id: str) -> None:
        self._events = events
        self._log = {"request_id": request_id}
        self._pending: asyncio.Task[AnswerEvent] | None = None

    async def next(self, patience_s: float | None = None) -> AnswerEvent | None:
        """The next event, or None if there is none within `patience_s`. Raises the service's
        PicertError.
        """
        if self._pending is None:
            self._pending = asyncio.create_task(self._advance())
        done, _ = await asyncio.wait({self._pending}, timeout=patience_s)
        if not done:
            return None
        task, self._pending = self._pending, None
        return task.result()

    async def opening(self, patience_s: float) -> list[AnswerEvent]:
        """Events up to the first after the plan, or as many as come within `patience_s`.

        Most errors show by then, while the response can still have a status of its own.
        """
        deadline = time.monotonic() + patience_s
        events: list[AnswerEvent] = []
        while (event := await self.next(max(0.0, deadline - time.monotonic()))) is not None:
            events.append(event)
            if not isinstance(event, Progress) or event.stage != "plan":
                break
        return events

    async def whole(self) -> tuple[str, Done]:
        """The complete text and the terminal event."""
        text: list[str] = []
        while True:
            event = await self.next()
            if isinstance(event, TextDelta):
                text.append(event.text)
            elif isinstance(event, Done):
                return "".join(text), event

    async def close(self) -> None:
        """Cancel what is under way and wait until the service has let go of the request."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
            self._pending = None
        await self._events.aclose()

    async def _advance(self) -> AnswerEvent:
        try:
            return await self._events.__anext__()
        except PicertError:
            raise
        except StopAsyncIteration:
            problem = "the answer ended without its last event"
        except Exception as error:  # a fault of ours: the client gets a 500, the log gets the story
            logger.exception("request failed: %r", error, extra=self._log)
            problem = "internal error"
        raise PicertError(f"{problem}: see the cloud's log for request {self._log['request_id']}")


async def unless_left(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises Cancelled, once `work` is cancelled and over, if the client
    leaves first.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client left before the answer was complete")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
