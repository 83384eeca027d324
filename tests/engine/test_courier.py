"""What the courier brings: all of it, in order, few times."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from picert.engine.courier import ROUND_S, Courier


class ByHand:
    """An event loop whose time passes by hand."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.rounds: list[Any] = []
        self.has_closed = False

    def is_closed(self) -> bool:
        return self.has_closed

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Any:
        assert delay_s == ROUND_S
        timer = SimpleNamespace(call=call, cancel=lambda: self.rounds.remove(timer))
        self.rounds.append(timer)
        return timer

    def run(self) -> int:
        """Do what was called for; the number of calls."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        return len(calls)

    def pass_round(self) -> None:
        [timer] = self.rounds
        timer.call()


class Box:
    def __init__(self) -> None:
        self.items: list[Any] = []

    def put(self, item: Any) -> None:
        self.items.append(item)


@pytest.fixture
def loop() -> ByHand:
    return ByHand()


@pytest.fixture
def courier(loop: ByHand) -> Courier:
    return Courier(loop)  # type: ignore[arg-type]


def hand(courier: Courier, box: Box, item: Any, *, is_urgent: bool = False) -> bool:
    return courier.hand_over([(box, item)], is_urgent=is_urgent)


def test_what_comes_after_a_pause_is_brought_at_once(courier: Courier, loop: ByHand) -> None:
    box = Box()
    assert hand(courier, box, 1)
    assert loop.run() == 1
    assert box.items == [1]


def test_what_comes_soon_after_waits_for_the_next_round(courier: Courier, loop: ByHand) -> None:
    box = Box()
    hand(courier, box, 1)
    loop.run()
    hand(courier, box, 2)
    hand(courier, box, 3)
    assert loop.run() == 0
    loop.pass_round()
    assert box.items == [1, 2, 3]


def test_what_is_urgent_is_brought_at_once_and_all_before_it(
    courier: Courier, loop: ByHand
) -> None:
    one, other = Box(), Box()
    hand(courier, one, 1)
    loop.run()
    hand(courier, one, 2)
    hand(courier, other, "end", is_urgent=True)
    assert loop.run() == 1
    assert (one.items, other.items) == ([1, 2], ["end"])


def test_a_round_without_parcels_is_the_last(courier: Courier, loop: ByHand) -> None:
    box = Box()
    hand(courier, box, 1)
    loop.run()
    loop.pass_round()
    assert not loop.rounds
    hand(courier, box, 2)
    assert loop.run() == 1


def test_at_most_one_round_is_waited_for(courier: Courier, loop: ByHand) -> None:
    for number in range(5):
        hand(courier, Box(), number, is_urgent=True)
        loop.run()
        assert len(loop.rounds) == 1


def test_closed_event_loop_is_told(courier: Courier, loop: ByHand) -> None:
    loop.has_closed = True
    assert not hand(courier, Box(), 1)


def test_event_loop_that_closes_meanwhile_is_told(courier: Courier, loop: ByHand) -> None:
    def closed(call: object) -> None:
        raise RuntimeError("Event loop is closed")

    loop.call_soon_threadsafe = closed  # type: ignore[method-assign]
    assert not hand(courier, Box(), 1)
