import math

import pytest

from picert.pice.profile import SpeedProfile, predicted_seconds


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
