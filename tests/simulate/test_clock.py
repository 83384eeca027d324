"""Virtual time passes only while everything waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from picert.simulate.clock import run


def test_an_hour_of_sleeping_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(main) == pytest.approx(3600)
    assert time.monotonic() - began < 10


def test_a_deadline_passes_where_nobody_answers() -> None:
    async def main() -> float:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 7)
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(7)


def test_waiting_for_nothing_is_an_error_and_not_for_ever() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="no timer is set"):
        run(main)


def test_time_goes_on_when_it_is_late_and_steps_are_small() -> None:
    async def main() -> int:
        await asyncio.sleep(1e9)
        for _ in range(10):
            await asyncio.sleep(1e-8)  # less than such a clock can show
        return 1

    assert run(main) == 1


def test_tasks_that_are_left_behind_are_cancelled() -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append(True)

    async def main() -> None:
        ended.append(False)
        task = asyncio.create_task(forever())
        await asyncio.sleep(1)
        assert not task.done()

    run(main)
    assert ended == [False, True]
