"""within(): an awaitable with a deadline, and no cancellation that gets lost.

asyncio.wait_for of Python up to 3.11 forgets a cancellation that comes in the moment in which what
it waits for is done: whoever cancelled then waits for work that goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """The result of `work`, or its exception. Raises asyncio.TimeoutError after `seconds` (None:
    never).

    When it ends, cancelled or not, `work` has ended, too.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        is_late = not task.done()
        if is_late:
            task.cancel()
            await asyncio.wait({task})
    if is_late and task.cancelled():
        raise asyncio.TimeoutError
    return task.result()
