"""Feed: the events of one response, which may hold several answers, read one at a time by whoever
writes it; and the wait for a client to leave.

The service's iterators must not be cancelled by a reader that only wanted to look up (to send a
keep-alive), and must be closed whatever ends the response; both are settled here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from picert.errors import Cancelled, PicertError
from picert.log import get_logger
from picert.messages import AnswerEvent, Done, Progress, TextDelta, TokenLogprob

logger = get_logger(__name__)
T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]  # ASGI's
IndexedEvent = tuple[int, AnswerEvent]  # which of the answers it belongs to


@dataclass(slots=True)
class Whole:
    """One complete answer."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    done: Done | None = None


class Feed:
    """Owns iterators of the service, one for each answer; `close` ends them and all they hold."""

    def __init__(
        self, answers: Sequence[AsyncGenerator[AnswerEvent, None]], request_id: str
    ) -> None:
        self._answers = answers
        self._log = {"request_id": request_id}
        self._pending: dict[asyncio.Task[AnswerEvent], int] = {}  # in order of asking
        self._running = set(range(len(answers)))

    @property
    def is_over(self) -> bool:
        """Every answer has had its last event."""
        return not self._running

    async def next(self, patience_s: float | None = None) -> IndexedEvent | None:
        """The next event of any answer, or None if there is none within `patience_s`. Raises the
        service's PicertError.
        """
        for index in sorted(self._running.difference(self._pending.values())):
            self._pending[asyncio.create_task(self._advance(index))] = index
        done, _ = await asyncio.wait(
            self._pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            return None
        task = next(task for task in self._pending if task in done)
        index = self._pending.pop(task)
        event = task.result()
        if isinstance(event, Done):
            self._running.discard(index)
        return index, event

    async def opening(self, patience_s: float) -> list[IndexedEvent]:
        """Events up to the first of each answer after its plan, or as many as come within
        `patience_s`.

        Most errors show by then, while the response can still have a status of its own.
        """
        deadline = time.monotonic() + patience_s
        events: list[IndexedEvent] = []
        silent = set(self._running)
        while silent:
            item = await self.next(max(0.0, deadline - time.monotonic()))
            if item is None:
                break
            events.append(item)
            index, event = item
            if not isinstance(event, Progress) or event.stage != "plan":
                silent.discard(index)
        return events

    async def whole(self) -> list[Whole]:
        """Every answer, complete."""
        answers = [Whole() for _ in self._answers]
        texts: list[list[str]] = [[] for _ in answers]
        while not self.is_over:
            item = await self.next()
            assert item is not None  # it was waited for without limit
            index, event = item
            if isinstance(event, TextDelta):
                texts[index].append(event.text)
                answers[index].logprobs += event.logprobs
            elif isinstance(event, Done):
                answers[index].text, answers[index].done = "".join(texts[index]), event
        return answers

    async def close(self) -> None:
        """Cancel what is under way and wait until the service has let go of the requests."""
        pending, self._pending = [*self._pending], {}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self._running.clear()
        await asyncio.gather(*(answer.aclose() for answer in self._answers))

    async def _advance(self, index: int) -> AnswerEvent:
        try:
            return await self._answers[index].__anext__()
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
