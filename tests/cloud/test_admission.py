"""Admission: a bounded number of questions, and a door that can be closed."""

from __future__ import annotations

import asyncio

import pytest

from picert.cloud.admission import Admission
from picert.errors import Draining, QueueFull


def test_places_are_bounded_and_come_back() -> None:
    admission = Admission(2)
    with admission.place(), admission.place():
        with pytest.raises(QueueFull, match="the limit is 2"), admission.place():
            pass
        assert admission.num_inside == 2
    assert admission.num_inside == 0
    with admission.place():
        pass


def test_place_of_a_question_that_failed_comes_back() -> None:
    admission = Admission(1)
    with pytest.raises(ValueError, match="x"), admission.place():
        raise ValueError("x")
    assert admission.num_inside == 0


def test_draining_lets_nobody_in_until_it_is_opened_again() -> None:
    admission = Admission(1)
    admission.drain()
    with pytest.raises(Draining), admission.place():
        pass
    admission.reopen()
    with admission.place():
        pass


async def test_wait_ends_with_the_last_question_or_in_time() -> None:
    admission = Admission(2)
    assert await admission.wait_idle(0.0)
    with admission.place():
        assert not await admission.wait_idle(0.01)
        waiting = asyncio.create_task(admission.wait_idle(10.0))
        await asyncio.sleep(0)
    assert await waiting
