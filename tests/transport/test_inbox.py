"""A bounded queue: order, waiting for room, and an end that reaches everybody."""

from __future__ import annotations

import asyncio

import pytest

from picert.errors import PicertError
from picert.transport.inbox import Inbox


async def turns(count=5):
    """Let every other task run until it waits."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_items_come_out_in_order_and_close_ends_the_iteration():
    inbox: Inbox[int] = Inbox(10)
    for item in range(5):
        await inbox.put(item)
    inbox.close()
    assert [item async for item in inbox] == [0, 1, 2, 3, 4]


async def test_put_waits_for_room_and_keeps_the_order_of_the_calls():
    inbox: Inbox[int] = Inbox(2)
    puts = [asyncio.create_task(inbox.put(item)) for item in range(20)]
    await turns()
    assert inbox.is_full
    assert len(inbox) == 2
    got = []
    for _ in range(20):
        got.append(await anext(inbox))
        assert len(inbox) <= 2
    await asyncio.gather(*puts)
    assert got == list(range(20))


async def test_close_wakes_a_waiting_consumer():
    inbox: Inbox[int] = Inbox(1)
    consumer = asyncio.create_task(anext(inbox, "end"))
    await turns()
    inbox.close()
    assert await consumer == "end"


async def test_close_wakes_waiting_producers_and_drops_their_items():
    inbox: Inbox[int] = Inbox(1)
    puts = [asyncio.create_task(inbox.put(item)) for item in range(3)]
    await turns()
    inbox.close()
    await asyncio.gather(*puts)
    assert [item async for item in inbox] == [0]


async def test_close_with_an_error_raises_it_after_the_last_item():
    inbox: Inbox[int] = Inbox(2)
    await inbox.put(1)
    inbox.close(PicertError("broken"))
    inbox.close()
    assert await anext(inbox) == 1
    with pytest.raises(PicertError, match="broken"):
        await anext(inbox)


async def test_cancelled_producer_gives_up_its_place():
    inbox: Inbox[int] = Inbox(1)
    await inbox.put(0)
    waiting = asyncio.create_task(inbox.put(1))
    later = asyncio.create_task(inbox.put(2))
    await turns()
    waiting.cancel()
    assert [await anext(inbox), await anext(inbox)] == [0, 2]
    await later
