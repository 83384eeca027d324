"""ModelSwitch: the largest model that is in time, without going to and fro."""

import random
from itertools import pairwise

import pytest

from picert.errors import ConfigError
from picert.pice.switching import ModelSwitch


def switch(slack_s: float = 10.0, dwell_s: float = 5.0) -> ModelSwitch:
    return ModelSwitch(["small", "middle", "large"], slack_s, dwell_s)


def load(seconds: float) -> dict[str, float]:
    """What waits takes the large model this long, the others a half and a quarter."""
    return {"large": seconds, "middle": seconds / 2, "small": seconds / 4}


def test_it_begins_with_the_largest_and_stays_while_that_is_in_time() -> None:
    one = switch()
    assert one.decide(load(10.0), 0.0) is None
    assert one.model == "large"


def test_it_goes_down_to_the_largest_that_is_in_time_and_says_why() -> None:
    one = switch()
    done = one.decide(load(18.0), 0.0)
    assert done is not None
    assert (done.model, done.direction, one.model) == ("middle", "down", "middle")
    assert done.reason == "large would need 18.0 s for what waits, not 10"


def test_it_goes_to_the_soonest_when_none_is_in_time() -> None:
    one = switch()
    assert one.decide(load(500.0), 0.0) is not None
    assert one.model == "small"
    assert one.decide(load(500.0), 100.0) is None


def test_it_goes_up_only_with_half_of_the_slack_to_spare() -> None:
    one = switch()
    one.decide(load(18.0), 0.0)
    assert one.decide(load(9.0), 10.0) is None
    up = one.decide(load(4.0), 10.0)
    assert up is not None
    assert (up.model, up.direction) == ("large", "up")
    assert up.reason == "it would be done in 4.0 of 10 s"


def test_it_stays_for_the_dwell_whatever_comes() -> None:
    one = switch(dwell_s=5.0)
    one.decide(load(18.0), 100.0)
    assert one.decide(load(1.0), 104.9) is None
    assert one.decide(load(1.0), 105.0) is not None


def test_a_model_whose_loading_takes_longer_than_it_saves_is_not_chosen() -> None:
    one = switch()
    assert one.decide({"large": 12.0, "small": 3.0 + 20.0}, 0.0) is None
    assert one.decide({"large": 12.0, "small": 3.0 + 5.0}, 0.0) is not None


def test_a_model_that_cannot_be_run_is_left_at_once() -> None:
    one = switch()
    assert one.decide({"middle": 50.0}, 0.0) is not None
    assert one.model == "middle"
    assert one.decide({}, 100.0) is None


def test_alternating_load_switches_no_more_than_the_dwell_allows() -> None:
    one = switch(dwell_s=5.0)
    switches = [now for now in range(200) if one.decide(load(40.0 if now % 2 else 1.0), float(now))]
    assert 2 <= len(switches) <= 200 // 5 + 1
    assert all(b - a >= 5 for a, b in pairwise(switches))


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_level_load_comes_to_rest(seed: int) -> None:
    rng = random.Random(seed)
    one = switch(dwell_s=0.0)
    switches = [now for now in range(500) if one.decide(load(rng.uniform(13.0, 19.0)), float(now))]
    assert (len(switches), one.model) == (1, "middle")


def test_a_clock_that_jumps_back_does_not_freeze_it() -> None:
    one = switch()
    one.decide(load(18.0), 1e9)
    assert one.decide(load(1.0), 5.0) is not None


def test_an_edge_without_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no model"):
        ModelSwitch([], 1.0, 1.0)
