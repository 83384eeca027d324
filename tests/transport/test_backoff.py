"""Delays double with jitter up to their limit, and a success begins again."""

from __future__ import annotations

import random

from picert.transport.backoff import Backoff


def test_delays_double_to_the_limit_within_their_jitter():
    backoff = Backoff(random.Random(1))
    full = [min(0.05 * 2**i, 5.0) for i in range(12)]
    assert all(f / 2 <= backoff.next_s() <= f for f in full)


def test_reset_begins_with_the_shortest_delay():
    backoff = Backoff(random.Random(2))
    for _ in range(10):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 0.05


def test_two_sources_do_not_knock_together():
    one, two = Backoff(random.Random(1)), Backoff(random.Random(2))
    assert [one.next_s() for _ in range(5)] != [two.next_s() for _ in range(5)]
