"""States from beats, on a clock that only the test moves."""

from __future__ import annotations

import pytest

from picert.errors import ConfigError
from picert.transport.liveness import Liveness


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def liveness(clock):
    made = Liveness(1.0, 3, 8, clock)
    made.add("a")
    return made


def run(liveness, clock, seconds, step=0.5):
    """Let time pass with regular ticks; the names that died."""
    died = []
    for _ in range(round(seconds / step)):
        clock.now += step
        died += liveness.tick()
    return died


def test_new_name_is_alive_and_unknown_name_is_dead(liveness):
    assert liveness.state("a") == "alive"
    assert liveness.state("b") == "dead"


def test_three_missed_beats_are_probation_and_eight_are_death(liveness, clock):
    states = []
    for _ in range(9):
        run(liveness, clock, 1.0)
        states.append(liveness.state("a"))
    assert states == ["alive"] * 2 + ["probation"] * 5 + ["dead"] * 2


def test_death_is_reported_once(liveness, clock):
    assert run(liveness, clock, 20.0) == ["a"]


def test_beat_ends_probation(liveness, clock):
    run(liveness, clock, 4.0)
    liveness.beat("a")
    assert liveness.state("a") == "alive"
    assert run(liveness, clock, 7.5) == []
    assert run(liveness, clock, 0.5) == ["a"]


def test_names_are_judged_one_by_one(liveness, clock):
    liveness.add("b")
    for _ in range(10):
        run(liveness, clock, 1.0)
        liveness.beat("b")
    assert (liveness.state("a"), liveness.state("b")) == ("dead", "alive")


def test_removed_name_is_neither_judged_nor_revived(liveness, clock):
    liveness.remove("a")
    liveness.remove("a")
    liveness.beat("a")
    assert run(liveness, clock, 20.0) == []
    assert liveness.state("a") == "dead"


def test_time_in_which_nobody_ticked_counts_as_one_beat(liveness, clock):
    clock.now += 3600.0  # this process was stopped
    assert liveness.tick() == []
    assert liveness.state("a") == "alive"
    assert liveness.silence_s("a") == pytest.approx(1.0)
    assert run(liveness, clock, 6.5) == []
    assert run(liveness, clock, 0.5) == ["a"]


def test_excuse_never_lies_in_the_future(liveness, clock):
    clock.now += 100.0
    liveness.beat("a")
    liveness.tick()
    assert liveness.silence_s("a") == 0.0


@pytest.mark.parametrize(("probation", "dead"), [(0, 8), (3, 3), (8, 3)])
def test_death_before_probation_is_refused(clock, probation, dead):
    with pytest.raises(ConfigError, match="must be over probation_beats"):
        Liveness(1.0, probation, dead, clock)
