"""Courier: brings what the engine's thread has for the streams of one event loop.

To wake an event loop for a token, and what it then does with it, costs the interpreter 0.1 to
0.2 ms, in which the engine's thread stands still. So a courier that was called for comes by once
more by itself, `ROUND_S` later, and takes along what was handed over meanwhile. Where a step takes
longer than that nothing waits; the first token of a text and its end never do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Protocol

from picert.engine.sequence import Output
from picert.errors import PicertError

ROUND_S = 0.002
Item = Output | PicertError


class Addressee(Protocol):
    """Who waits for items, on the courier's event loop."""

    def put(self, item: Item) -> None:
        """Take one item."""
        ...


class Courier:
    """Of one event loop. `hand_over` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        # Under the lock:
        self._parcels: list[tuple[Addressee, Item]] = []
        self._is_expected = False  # it will come by without being called
        # Of the event loop:
        self._round: asyncio.TimerHandle | None = None

    def hand_over(self, parcels: Sequence[tuple[Addressee, Item]], *, is_urgent: bool) -> bool:
        """Have them brought, in order; False if the event loop is closed."""
        if self._loop.is_closed():
            return False
        with self._lock:
            self._parcels += parcels
            if self._is_expected and not is_urgent:
                return True
            self._is_expected = True
        try:
            self._loop.call_soon_threadsafe(self._bring)
        except RuntimeError:  # it was closed just now
            return False
        return True

    def _bring(self) -> None:
        if self._round is not None:
            self._round.cancel()
            self._round = None
        with self._lock:
            parcels, self._parcels = self._parcels, []
            self._is_expected = bool(parcels)
        if parcels:
            self._round = self._loop.call_later(ROUND_S, self._bring)
        for addressee, item in parcels:
            addressee.put(item)
