"""Breaker: three failures in a row and an edge rests, then one job decides."""

from __future__ import annotations

import random

from fake_engine import Clock

from picert.cloud.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock, random.Random(1))
    for _ in range(FAILURES_TO_OPEN):
        breaker.begin()
        breaker.fail()
    return breaker


def test_stays_closed_while_successes_come_between() -> None:
    breaker = Breaker(Clock(), random.Random(1))
    for _ in range(10):
        breaker.fail()
        breaker.fail()
        breaker.succeed()
    assert breaker.allows()


def test_opens_after_failures_in_a_row_and_says_so_once() -> None:
    breaker = Breaker(Clock(), random.Random(1))
    assert [breaker.fail() for _ in range(5)] == [False, False, True, False, False]
    assert not breaker.allows()
    assert breaker.state == "open"


def test_one_job_may_try_after_the_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 1.25 * FIRST_PAUSE_S
    assert breaker.allows()
    breaker.begin()
    assert (breaker.state, breaker.allows()) == ("trying", False)


def test_success_of_the_try_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10.0
    breaker.begin()
    breaker.succeed()
    assert (breaker.state, breaker.allows()) == ("closed", True)


def test_pauses_double_up_to_a_limit_and_differ_between_edges() -> None:
    clock = Clock()
    breaker, pauses = opened(clock), []
    for _ in range(8):
        began = clock.now
        while not breaker.allows():
            clock.now += 0.1
        pauses.append(clock.now - began)
        breaker.begin()
        breaker.fail()
    assert 0.75 * FIRST_PAUSE_S <= pauses[0] <= 1.25 * FIRST_PAUSE_S + 0.1
    assert pauses[2] > 2 * pauses[0]
    assert max(pauses) <= 1.25 * LONGEST_PAUSE_S + 0.1
    assert len({round(pause / FIRST_PAUSE_S, 3) for pause in pauses}) == len(pauses)


def test_try_that_was_taken_back_leaves_room_for_another() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10.0
    breaker.begin()
    breaker.forget_try()
    assert breaker.allows()
