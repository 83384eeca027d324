import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.messages import SpeedCurve
from picert.pice.profile import SpeedProfile, Surface, curve_of, predicted_seconds

PREFILL = [(32, 1, 0.2), (256, 1, 1.0), (32, 4, 0.6), (256, 4, 4.0)]
DECODE = [(1, 64, 0.05), (8, 64, 0.12), (1, 512, 0.06), (8, 512, 0.16)]


def test_prediction_adds_reading_and_writing() -> None:
    profile = SpeedProfile(prefill_tokens_per_s=100.0, decode_s_per_token=0.5)
    assert predicted_seconds(profile, 200, 10) == pytest.approx(2.0 + 5.0)


def test_rates_approach_what_is_observed() -> None:
    profile = SpeedProfile(prefill_tokens_per_s=100.0, decode_s_per_token=0.5)
    for _ in range(60):
        profile.observe_prefill(300, 1.0)
        profile.observe_decode(20, 1.0)
    assert profile.prefill_seconds(300) == pytest.approx(1.0, rel=0.01)
    assert profile.decode_seconds(20) == pytest.approx(1.0, rel=0.01)


def test_whole_jobs_correct_both_rates() -> None:
    profile = SpeedProfile(prefill_tokens_per_s=10.0, decode_s_per_token=10.0)
    for _ in range(60):
        profile.observe(100, 50, 3.0)
    assert predicted_seconds(profile, 100, 50) == pytest.approx(3.0, rel=0.01)


def test_batch_sizes_are_learned_apart_and_borrow_from_the_nearest() -> None:
    profile = SpeedProfile(decode_s_per_token=0.1)
    for _ in range(60):
        profile.observe_decode(10, 4.0, batch=8)
    assert profile.decode_seconds(10, batch=1) == pytest.approx(1.0)
    assert profile.decode_seconds(10, batch=9) == pytest.approx(4.0, rel=0.01)
    assert profile.decode_seconds(10, batch=500) == pytest.approx(4.0, rel=0.01)


def test_one_wild_sample_moves_little() -> None:
    profile = SpeedProfile(decode_s_per_token=0.1)
    profile.observe_decode(1, 1e9)
    assert profile.decode_seconds(1) < 0.2


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_samples_that_cannot_be_true_are_left_out(seconds: float) -> None:
    profile = SpeedProfile()
    before = predicted_seconds(profile, 100, 100)
    profile.observe(100, 100, seconds)
    profile.observe_prefill(100, seconds)
    profile.observe_decode(100, seconds)
    profile.observe(0, 0, 1.0)
    profile.observe_decode(-5, 1.0)
    assert predicted_seconds(profile, 100, 100) == before


def test_nothing_to_do_takes_no_time() -> None:
    assert predicted_seconds(SpeedProfile(), 0, 0) == 0.0
    assert SpeedProfile().prefill_seconds(-3) == 0.0


def test_tables_are_met_at_their_points() -> None:
    profile = SpeedProfile.of_tables(PREFILL, DECODE)
    for tokens, batch, seconds in PREFILL:
        assert profile.prefill_seconds(tokens, batch) == pytest.approx(seconds)
    for batch, context, seconds in DECODE:
        assert profile.decode_seconds(1, batch, context) == pytest.approx(seconds)


def test_tables_are_linear_between_and_go_on_beyond_their_points() -> None:
    profile = SpeedProfile.of_tables(PREFILL, DECODE)
    assert profile.prefill_seconds(16) == pytest.approx(0.1)
    assert profile.prefill_seconds(144) == pytest.approx(0.6)
    assert profile.prefill_seconds(480) == pytest.approx(1.8)
    assert profile.decode_seconds(10, batch=15, context=0) == pytest.approx(1.9)
    assert profile.decode_seconds(1, batch=1, context=960) == pytest.approx(0.07)


def test_real_texts_move_a_measured_table_as_a_whole() -> None:
    profile = SpeedProfile.of_tables(PREFILL, DECODE)
    for _ in range(60):
        profile.observe_decode(10, 1.0)  # twice the table's seconds
        profile.observe_prefill(256, 0.5)
    assert profile.decode_seconds(1, context=512) == pytest.approx(0.12, rel=0.01)
    assert profile.prefill_seconds(32) == pytest.approx(0.1, rel=0.01)


def test_a_machine_that_slows_down_is_seen_within_a_few_texts() -> None:
    profile = SpeedProfile.of_tables(PREFILL, DECODE)
    for _ in range(8):
        profile.observe_decode(10, 2.0)
    assert profile.decode_seconds(10) > 1.5


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1, 1, 0.1), (1, 1, 0.2)],
        [(1, 1, 0.1), (2, 2, 0.2)],
        [(1, 1, 0.0)],
        [(1, 1, math.nan)],
        [(-1, 1, 1.0)],
    ],
)
def test_points_that_are_no_table_are_refused(points: list[tuple[int, int, float]]) -> None:
    with pytest.raises(ValueError, match=r"grid|range"):
        Surface.of(points)


def test_a_told_curve_predicts_what_was_measured() -> None:
    curve = curve_of("m", PREFILL, DECODE, load_s=0.5)
    assert curve == SpeedCurve(
        model="m", prefill_s_per_token=1 / 256, decode_s_per_token={1: 0.05, 8: 0.12}, load_s=0.5
    )
    told = SpeedProfile.of_curve(curve)
    assert told.decode_seconds(4, batch=8) == pytest.approx(0.48)
    assert told.prefill_seconds(256) == pytest.approx(1.0)


@given(st.integers(1, 10_000), st.integers(1, 500), st.integers(0, 10_000))
def test_more_work_never_takes_less_time(tokens: int, batch: int, context: int) -> None:
    profile = SpeedProfile.of_tables(PREFILL, DECODE)
    assert profile.prefill_seconds(tokens + 1, batch) >= profile.prefill_seconds(tokens, batch)
    assert profile.decode_seconds(1, batch + 1, context) >= profile.decode_seconds(
        1, batch, context
    )
