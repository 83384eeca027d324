"""The price of a cloud second follows the backlog."""

from hypothesis import given
from hypothesis import strategies as st

from picert.pice.price import BacklogPrice

BACKLOGS = st.lists(st.floats(0, 1000), min_size=1, max_size=30)


def test_price_rises_over_the_target_and_falls_under_it() -> None:
    price = BacklogPrice(target_s=10.0, rate=0.1)
    assert price.update(30.0, now=0.0) == 0.0  # nothing is known of the time before
    assert price.update(30.0, now=1.0) == 2.0
    assert price.update(10.0, now=2.0) == 2.0
    assert price.update(0.0, now=3.0) == 1.0
    assert price.update(0.0, now=9.0) == 0.0


def test_a_clock_that_goes_back_or_jumps_moves_no_price_far() -> None:
    price = BacklogPrice(target_s=10.0, rate=0.1)
    price.update(20.0, now=100.0)
    assert price.update(20.0, now=50.0) == 0.0
    assert price.update(20.0, now=1e9) == 5.0


@given(BACKLOGS, st.floats(0, 100))
def test_more_backlog_never_means_a_lower_price(backlogs: list[float], more: float) -> None:
    low, high = BacklogPrice(10.0, 0.02), BacklogPrice(10.0, 0.02)
    for second, backlog in enumerate(backlogs):
        assert low.update(backlog, second) <= high.update(backlog + more, second)
