"""A bounded queue that can be closed: from a link's tasks to the one consumer of its `events()`.

(`asyncio.Queue` can be closed from Python 3.13 on only.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from picert.errors import PicertError

T = TypeVar("T")


class Inbox(Generic[T]):
    """An async iterator over what is put in, in order of the calls to `put`; ends after `close`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._turn = asyncio.Lock()  # fair: whoever waits for room keeps its place in the order
        self._has_room = asyncio.Event()
        self._has_items = asyncio.Event()
        self._is_closed = False
        self._error: PicertError | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """A `put` would wait for the consumer."""
        return len(self._items) >= self._limit

    async def put(self, item: T) -> None:
        """Append one item, waiting for room; once closed, the item is dropped."""
        async with self._turn:
            while self.is_full and not self._is_closed:
                self._has_room.clear()
                await self._has_room.wait()
            if not self._is_closed:
                self._items.append(item)
                self._has_items.set()

    def close(self, error: PicertError | None = None) -> None:
        """End the iteration after what is queued, with `error` if given; a second call is void."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._has_items.set()
            self._has_room.set()

    def __aiter__(self) -> Inbox[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._is_closed:
                raise self._error or StopAsyncIteration
            self._has_items.clear()
            await self._has_items.wait()
        item = self._items.popleft()
        self._has_room.set()
        return item
