"""Waiting for another thread or process, with a deadline."""

import asyncio
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Return as soon as `condition` holds; an AssertionError if it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {condition.__name__}"
        await asyncio.sleep(0.01)
