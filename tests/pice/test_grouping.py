"""Grouping against the dynamic program over all cuts, and in cases that one can see."""

import random

import pytest
from dispatch_twin import best_seconds

from picert import _C
from picert.pice.grouping import Batcher


def cut(tokens: list[int], step_s: list[float], read_s: float) -> list[list[int]]:
    return [tokens[start:end] for start, end in Batcher().group(tokens, step_s, read_s)]


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_is_predicted_to_end_sooner(seed: int) -> None:
    rng = random.Random(seed)
    core = _C.SegmentBatcher()
    for _ in range(8):
        tokens = [
            rng.choice((rng.randint(1, 20), rng.randint(1, 300))) for _ in range(rng.randint(1, 24))
        ]
        growth = rng.choice((0.0, 0.02, 0.1, 0.5))
        step_s = [0.02 * (1 + growth * k) for k in range(rng.randint(1, 12))]
        read_s = rng.choice((0.0, 0.05, 0.4, 3.0))
        ends = core.group(tokens, step_s, read_s)
        core.self_check()
        assert core.seconds == pytest.approx(best_seconds(tokens, step_s, read_s), rel=1e-12)
        assert ends == sorted(set(ends))


def test_with_places_for_all_and_nothing_to_read_each_segment_is_alone() -> None:
    assert cut([50, 50, 50], [0.1, 0.1, 0.1], 0.0) == [[50], [50], [50]]


def test_groups_never_outnumber_the_places() -> None:
    assert cut([50, 50, 50, 50], [0.1, 0.1], 0.0) == [[50, 50], [50, 50]]


def test_short_neighbours_share_a_place_beside_a_long_one() -> None:
    assert cut([100, 20, 30, 40], [0.1] * 4, 0.01) == [[100], [20, 30, 40]]


def test_reading_that_costs_more_than_writing_together_saves_merges_all() -> None:
    assert cut([20, 20, 20], [0.1] * 3, 5.0) == [[20, 20, 20]]


def test_a_step_that_slows_with_each_sequence_merges_too() -> None:
    assert len(cut([40] * 6, [0.1 * (k + 1) for k in range(6)], 0.1)) == 1


def test_nothing_gives_no_group() -> None:
    assert cut([], [0.1], 1.0) == []


@pytest.mark.parametrize(
    ("tokens", "step_s", "read_s", "problem"),
    [
        ([5], [], 0.0, "no place"),
        ([5], [0.1], -1.0, "read_s"),
        ([5], [0.1], float("nan"), "read_s"),
        ([5], [0.0], 0.0, "step_s"),
        ([0], [0.1], 0.0, "segment of 0 tokens"),
        ([5], [float("inf")], 0.0, "step_s"),
    ],
)
def test_numbers_that_cannot_be_true_are_refused(
    tokens: list[int], step_s: list[float], read_s: float, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Batcher().group(tokens, step_s, read_s)


def test_a_measured_curve_that_falls_is_levelled() -> None:
    assert cut([50, 50], [0.2, 0.1], 0.0) == [[50], [50]]
