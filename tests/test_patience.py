"""within(): results, deadlines, and cancellations that must not get lost."""

import asyncio

import pytest

from picert.patience import within


async def test_result_in_time_is_the_works_own() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    assert await within(5.0, work()) == 3


async def test_failure_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await within(None, work())


async def test_late_work_is_cancelled_and_has_ended() -> None:
    ended: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(asyncio.TimeoutError):
        await within(0.0, work())
    assert ended == [True]


async def test_work_that_ends_in_spite_of_its_cancellation_keeps_its_result() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "rescued"

    assert await within(0.0, work()) == "rescued"


async def test_cancellation_in_the_moment_of_the_result_is_not_lost() -> None:
    result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(within(5.0, result))
    await asyncio.sleep(0)
    result.set_result(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_cancellation_ends_the_work() -> None:
    work = asyncio.create_task(asyncio.Event().wait())
    waiting = asyncio.create_task(within(None, work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled()
