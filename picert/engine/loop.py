"""EngineLoop: the one thread that owns an Engine, and the asyncio streams that it feeds.

Commands go in through a list under a lock, a courier brings the outputs. Every stream ends exactly
once: with a last Output, or with a PicertError. Nothing polls: an idle loop
sleeps on a condition, a consumer on its queue, a deadline is a timer of the consumer's event loop
and so holds even while a step hangs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as SequenceOf
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakValueDictionary

from picert.engine.courier import Courier, Item
from picert.engine.engine import Engine
from picert.engine.sampler import TokenMask
from picert.engine.scoring import Span
from picert.engine.sequence import NO_TERMS, Output, Terms, joined
from picert.engine.stats import EngineStats
from picert.errors import DeadlineExceeded, PicertError, QueueFull, QueueTimeout, Unavailable
from picert.log import get_logger
from picert.messages import SamplingParams

logger = get_logger(__name__)
_LEAST_PATIENCE_S = 4.0
_LONGEST_STEPS = 4.0  # a large prompt on a slow machine is not a fault


@dataclass(eq=False)
class _Stream:
    """One request on its way to its consumer. What is queued is bounded by its max_tokens."""

    request_id: str
    prompt_ids: SequenceOf[int]
    task: SamplingParams | SequenceOf[Span]  # how to go on, or what of the prompt is to be scored
    mask: TokenMask | None
    terms: Terms
    courier: Courier
    items: deque[Item] = field(default_factory=deque)
    has_ended: bool = False  # of the event loop's thread, as is all below
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, item: Item) -> None:
        """Queue an item; what comes after the end is dropped."""
        if self.has_ended:
            return
        self.has_ended = isinstance(item, PicertError) or item.finish_reason is not None
        self.items.append(item)
        self._arrived.set()

    async def next(self) -> Item:
        """Wait for what is next: all outputs that are here, as one, or the error after them."""
        while not self.items:
            self._arrived.clear()
            await self._arrived.wait()
        outputs: list[Output] = []
        while self.items:
            item = self.items[0]
            if isinstance(item, PicertError):
                break
            outputs.append(item)
            self.items.popleft()
        return joined(outputs) if outputs else self.items.popleft()


class EngineLoop:
    """Runs an Engine in a thread of its own. Its methods may be called from any thread."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine  # for others: its tokenizer, config and stats only
        self.last_step_at = clock()  # when a step last ended, or an idle loop got work
        self._clock = clock
        self._wake = threading.Condition()
        # Under _wake's lock:
        self._added: list[_Stream] = []
        self._aborted: list[_Stream] = []
        self._streams: set[_Stream] = set()  # accepted and not ended
        self._couriers: WeakValueDictionary[asyncio.AbstractEventLoop, Courier]
        self._couriers = WeakValueDictionary()  # each lives as long as its streams
        self._is_stopping = False
        self._failure: str | None = "the engine has not started"
        self._thread = threading.Thread(target=self._run, name="picert-engine", daemon=True)
        # Of the engine's thread:
        self._by_request: dict[str, _Stream] = {}
        self._items: list[tuple[_Stream, Output]] = []  # of the last step, not delivered yet

    def start(self) -> None:
        """Start the thread; once."""
        with self._wake:
            self._failure = None
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End every stream with Unavailable and the thread after its current step.

        Blocks for at most `timeout_s`; a step that hangs longer is left to itself.
        """
        with self._wake:
            self._is_stopping = True
            self._failure = self._failure or "the engine is stopping"
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._end_all(Unavailable("the engine has stopped"))

    @property
    def is_alive(self) -> bool:
        """Requests are taken: the thread runs, has not failed and is not stopping."""
        return self._failure is None and self._thread.is_alive()

    @property
    def num_requests(self) -> int:
        """Streams that have not ended."""
        return len(self._streams)

    def stats(self) -> EngineStats:
        """The engine's counters and gauges, live: read, do not write."""
        return self.engine.stats

    def seconds_stalled(self) -> float:
        """Time since the last sign of progress while there is work; 0 when idle. For health."""
        return self._clock() - self.last_step_at if self._streams else 0.0

    def patience_s(self) -> float:
        """Without a step for longer, while there is work, the engine must be taken for stuck."""
        return max(_LEAST_PATIENCE_S, _LONGEST_STEPS * self.engine.stats.longest_step_s)

    def stream(
        self,
        request_id: str,
        prompt_ids: SequenceOf[int],
        params: SamplingParams,
        *,
        terms: Terms = NO_TERMS,
        mask: TokenMask | None = None,
    ) -> AsyncGenerator[Output, None]:
        """Outputs of one request, up to the one with a `finish_reason`; closing aborts it. Tokens
        that come quicker than they are fetched come in one Output.

        Raises what Engine.add raises, DeadlineExceeded and QueueTimeout by the `terms`, counted
        from when the first item is asked for, and Unavailable when the engine is not running, fails
        or stops.
        """
        return self._outputs(partial(_Stream, request_id, prompt_ids, params, mask, terms))

    async def score(
        self,
        request_id: str,
        prompt_ids: SequenceOf[int],
        spans: SequenceOf[Span],
        *,
        terms: Terms = NO_TERMS,
    ) -> Output:
        """The one Output of a prompt that is read and not answered (Engine.score); cancelling the
        caller aborts it. Raises what Engine.score raises, and otherwise as `stream`."""
        new = partial(_Stream, request_id, prompt_ids, spans, None, terms)
        async with aclosing(self._outputs(new)) as outputs:
            return await anext(outputs)

    async def _outputs(self, new: Callable[[Courier], _Stream]) -> AsyncGenerator[Output, None]:
        """See `stream`; everything begins when the first item is asked for."""
        loop = asyncio.get_running_loop()
        stream = new(self._courier(loop))
        self._submit(stream)
        timers = [
            loop.call_later(max(0.0, seconds), expire, stream, seconds)
            for seconds, expire in (
                (stream.terms.deadline_s, self._expire),
                (stream.terms.queue_timeout_s, self._expire_waiting),
            )
            if seconds is not None
        ]
        try:
            while True:
                item = await stream.next()
                if isinstance(item, PicertError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            for timer in timers:
                timer.cancel()
            stream.has_ended = True
            self._release(stream)

    # --- any thread -------------------------------------------------------------------------------

    def _courier(self, loop: asyncio.AbstractEventLoop) -> Courier:
        with self._wake:
            return self._couriers.setdefault(loop, Courier(loop))

    def _submit(self, stream: _Stream) -> None:
        with self._wake:
            if self._failure is not None or not self._thread.is_alive():
                raise Unavailable(self._failure or "the engine's thread has ended")
            is_full = len(self._streams) >= self.engine.max_num_requests
            if is_full and not stream.terms.is_owed:
                raise QueueFull(
                    f"{len(self._streams)} requests are running or queued, the limit is "
                    f"{self.engine.max_num_requests}: try again later"
                )
            if not self._streams:
                self.last_step_at = self._clock()
            self._streams.add(stream)
            self._added.append(stream)
            self._wake.notify()

    def _release(self, stream: _Stream) -> None:
        """The consumer is gone, after the end or before it."""
        with self._wake:
            if stream in self._streams:
                self._streams.remove(stream)
                self._aborted.append(stream)
                self._wake.notify()

    def _expire(self, stream: _Stream, deadline_s: float) -> None:
        text = f"no complete answer within {deadline_s:.3g} s: allow more time"
        stream.put(DeadlineExceeded(text))
        self._release(stream)

    def _expire_waiting(self, stream: _Stream, timeout_s: float) -> None:
        with self._wake:
            is_over = stream not in self._streams or self.engine.has_started(stream.request_id)
        if not is_over:
            stream.put(QueueTimeout(f"no turn within {timeout_s:.3g} s: ask again later"))
            self._release(stream)

    def _end_all(self, error: PicertError) -> None:
        with self._wake:
            streams, self._streams = self._streams, set()
            self._added, self._aborted = [], []
        self._post([(stream, error) for stream in streams])

    def _post(self, items: list[tuple[_Stream, Item]]) -> None:
        """Hand items to the couriers of their event loops."""
        by_courier: dict[Courier, list[tuple[_Stream, Item]]] = {}
        for stream, item in items:
            by_courier.setdefault(stream.courier, []).append((stream, item))
        for courier, parcels in by_courier.items():
            is_urgent = any(_is_urgent(item) for _, item in parcels)
            if not courier.hand_over(parcels, is_urgent=is_urgent):
                for stream, _ in parcels:  # the event loop is closed, its consumers are gone
                    self._release(stream)

    # --- the engine's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        """The thread's top: the one place where any exception is caught."""
        try:
            while self._take_commands():
                if self.engine.has_work:
                    self.engine.begin_step()
                    self._deliver()  # what the step before gave, while a GPU is at this one
                    self._keep(self.engine.end_step())
                if not self.engine.has_work:
                    self._deliver()
                self.last_step_at = self._clock()
        except Exception as error:
            logger.exception("the engine failed")
            reason = f"the engine failed: {type(error).__name__}: {error}"
        else:
            reason = "the engine has stopped"
            for request_id in self._by_request:
                self.engine.abort(request_id)
        self._deliver()
        with self._wake:
            self._failure = reason
        self._end_all(Unavailable(reason))

    def _take_commands(self) -> bool:
        """Carry out what was asked meanwhile, sleeping while there is nothing; False at the end."""
        with self._wake:
            while not (self._added or self._aborted or self._is_stopping or self.engine.has_work):
                self._wake.wait()
            if self._is_stopping:
                return False
            added, self._added = self._added, []
            aborted, self._aborted = self._aborted, []
        for stream in added:
            self._add(stream)
        for stream in aborted:
            if self._by_request.get(stream.request_id) is stream:
                del self._by_request[stream.request_id]
                self.engine.abort(stream.request_id)
        return True

    def _add(self, stream: _Stream) -> None:
        read = (stream.request_id, stream.prompt_ids)
        try:
            if isinstance(stream.task, SamplingParams):
                self.engine.add(*read, stream.task, stream.mask, stream.terms)
            else:
                self.engine.score(*read, stream.task, stream.terms)
        except PicertError as error:
            self._retire(stream)
            self._post([(stream, error)])
        else:
            self._by_request[stream.request_id] = stream

    def _keep(self, outputs: list[Output]) -> None:
        """Outputs and their streams, to be delivered before anything else comes for them."""
        self._items = [(self._by_request[output.request_id], output) for output in outputs]
        for _, output in self._items:
            if output.finish_reason is not None:
                del self._by_request[output.request_id]

    def _deliver(self) -> None:
        items, self._items = self._items, []
        for stream, output in items:
            if output.finish_reason is not None:
                self._retire(stream)
        self._post([*items])

    def _retire(self, stream: _Stream) -> None:
        """The engine is done with it; its last item is on its way."""
        with self._wake:
            self._streams.discard(stream)


def _is_urgent(item: Item) -> bool:
    """A text begins or ends: somebody waits for just that."""
    if isinstance(item, PicertError) or item.finish_reason is not None:
        return True
    return item.num_completion_tokens == len(item.token_ids)
