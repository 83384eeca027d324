"""Predicted seconds of each way to serve a question, by cases that can be reckoned by hand."""

import math

import pytest

from picert.pice.objective import (
    CloudState,
    EdgeState,
    Outlook,
    Scale,
    last_end_s,
    least_loaded,
    share_of_edges_s,
)
from picert.pice.profile import SpeedProfile

CLOUD = CloudState(SpeedProfile(100.0, 0.1), slots=8)
FAST = EdgeState(4, 0, SpeedProfile(1000.0, 0.01), link_s=0.05)
SLOW = EdgeState(4, 0, SpeedProfile(1000.0, 0.04), link_s=0.05)


def test_a_direct_answer_waits_reads_and_writes() -> None:
    cloud = CloudState(CLOUD.speed, wait_s=2.0)
    assert Outlook(cloud, (), 50).direct_seconds(200) == pytest.approx(2.0 + 0.5 + 20.0)


def test_a_texts_share_of_the_cloud_does_not_depend_on_what_runs() -> None:
    busy = CloudState(CLOUD.speed, num_running=7, slots=8)
    assert CLOUD.share_seconds(50, 80) == busy.share_seconds(50, 80) == pytest.approx(0.5 + 1.0)


def test_an_edge_reads_its_jobs_in_turn_and_writes_them_together_in_rounds() -> None:
    def last(*ready: float) -> float:
        return last_end_s([FAST], ready, 100, 30)

    assert last(0.0) == pytest.approx(0.1 + 0.05 + 0.3)
    assert last(*[0.0] * 4) == pytest.approx(0.4 + 0.05 + 0.3)
    assert last(*[0.0] * 5) == pytest.approx(0.5 + 0.05 + 0.6)
    assert last(*[0.0] * 4, 9.0) == pytest.approx(9.0 + 0.1 + 0.05 + 0.3)


def test_jobs_go_where_they_end_first() -> None:
    one, both = last_end_s([SLOW], [0.0] * 4, 10, 30), last_end_s([SLOW, FAST], [0.0] * 4, 10, 30)
    assert both < one
    assert last_end_s([], [0.0], 10, 30) == math.inf


def test_eager_dispatch_hides_expansions_behind_the_sketch() -> None:
    eager, late = (Outlook(CLOUD, (FAST,), 50, is_eager=e) for e in (True, False))
    assert eager.sketch_seconds(4, 9.0, 30.0) < late.sketch_seconds(4, 9.0, 30.0)
    assert late.sketch_seconds(4, 9.0, 30.0) > 0.5 + 3.6


def test_a_sketch_takes_at_least_the_clouds_part() -> None:
    free = EdgeState(64, 0, SpeedProfile(1e9, 1e-9))
    outlook = Outlook(CLOUD, (free,), 50)
    assert outlook.sketch_seconds(4, 9.0, 30.0) == pytest.approx(0.5 + 3.6, abs=1e-3)


def test_cost_weighs_waiting_against_quality() -> None:
    scale = Scale(price=2.0, slo_s=10.0, w_latency=1.0, w_quality=1.5)
    assert scale.cost(5.0, 3.0, 0.8) == pytest.approx((6.0 + 5.0) / 10.0 - 1.2)


def test_cost_counts_the_edges_seconds_at_their_own_price() -> None:
    scale = Scale(2.0, 10.0, w_latency=1.0, w_quality=1.5, edge_price=4.0)
    assert scale.cost(5.0, 3.0, 0.8, 2.0) == pytest.approx((6.0 + 8.0 + 5.0) / 10.0 - 1.2)


def test_a_jobs_share_of_all_edges_is_less_the_more_there_are() -> None:
    one, two = share_of_edges_s([FAST], 100, 40), share_of_edges_s([FAST, FAST], 100, 40)
    assert one == pytest.approx(0.1 + 0.01 / 4 * 40)
    assert two == pytest.approx(one / 2)
    assert share_of_edges_s([FAST, SLOW], 100, 40) < one
    assert share_of_edges_s([], 100, 40) == 0.0


def test_the_least_loaded_edges_are_looked_at() -> None:
    busy = EdgeState(4, 3, FAST.speed)
    none = EdgeState(0, 0, FAST.speed)
    assert least_loaded([busy, SLOW, none, FAST]) == (FAST, SLOW, busy)
    assert len(least_loaded([FAST] * 500)) <= 8
