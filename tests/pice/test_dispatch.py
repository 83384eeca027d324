"""Dispatcher: items to edges by name, neighbours that wait in one group, tables that end empty."""

from __future__ import annotations

import random

import pytest

from picert.pice.dispatch import Dispatcher, Pace, Place, Ticket
from picert.pice.needs import JobNeeds

PACE = Pace(0.0, 0.001, ((1, 0.02), (8, 0.04)))


def needs(tokens: int = 50) -> JobNeeds:
    return JobNeeds(prompt_tokens=400, tail_tokens=40, tokens=tokens, kv_tokens=500)


def dispatcher(*slots: int, **options: object) -> Dispatcher[str]:
    made: Dispatcher[str] = Dispatcher(**options)  # type: ignore[arg-type]
    for n, count in enumerate(slots):
        made.add_edge(f"e{n}", count, 100_000, PACE)
    return made


def push(to: Dispatcher[str], *items: str, now: float = 0.0, tokens: int = 50) -> None:
    """Items "r3": segment 3 of request r."""
    for item in items:
        to.push(item, Ticket(item[0], needs(tokens), Place(int(item[1:]))), now)


def pull_all(of: Dispatcher[str], now: float = 0.0) -> list[tuple[str, list[list[str]]]]:
    pulled = []
    while batch := of.pull(now):
        of.self_check()
        pulled.append(batch)
    return pulled


def test_with_a_place_for_each_nothing_is_grouped() -> None:
    one = dispatcher(4)
    push(one, "a0", "a1", "a2")
    assert pull_all(one) == [("e0", [["a0"], ["a1"], ["a2"]])]


def test_neighbours_share_a_place_when_there_are_more_of_them_than_places() -> None:
    one = dispatcher(2)
    push(one, "a0", "a1", "a2", "a3")
    assert pull_all(one) == [("e0", [["a0", "a1"], ["a2", "a3"]])]


def test_the_share_of_a_request_shrinks_with_the_number_of_requests() -> None:
    one = dispatcher(2)
    push(one, "a0", "a1", "b0", "b1")
    assert pull_all(one) == [("e0", [["a0", "a1"], ["b0", "b1"]])]


def test_segments_that_are_no_neighbours_are_not_grouped() -> None:
    one = dispatcher(1)
    push(one, "a0", "a2", "a3")
    assert pull_all(one) == [("e0", [["a2", "a3"]])]  # the longer list first


def test_tries_of_different_kinds_are_not_grouped() -> None:
    one = dispatcher(1)
    one.push("x", Ticket("a", needs(), Place(0, "first")), 0.0)
    one.push("y", Ticket("a", needs(), Place(1, "second")), 0.0)
    one.push("z", Ticket("a", needs()), 0.0)
    assert pull_all(one) == [("e0", [["x"]])]


def test_a_line_that_comes_later_joins_those_that_still_wait() -> None:
    one = dispatcher(1)
    push(one, "b0")
    assert pull_all(one) == [("e0", [["b0"]])]
    push(one, "a0", "a1")
    assert pull_all(one) == []
    push(one, "a2")
    one.remove("b0")
    assert pull_all(one) == [("e0", [["a0", "a1", "a2"]])]


def test_grouping_can_be_switched_off() -> None:
    one = dispatcher(1, groups=False)
    push(one, "a0", "a1")
    assert pull_all(one) == [("e0", [["a0"]])]


def test_a_group_holds_its_place_until_its_last_item_has_left() -> None:
    one = dispatcher(1)
    push(one, "a0", "a1", "b0")
    assert pull_all(one) == [("e0", [["a0", "a1"]])]
    one.remove("a0")
    assert (one.num_in_flight("e0"), pull_all(one)) == (1, [])
    one.remove("a1")
    assert pull_all(one) == [("e0", [["b0"]])]


def test_an_item_that_leaves_while_it_waits_is_not_given_out() -> None:
    one = dispatcher(1)
    push(one, "b0")
    pull_all(one)
    push(one, "a0", "a1", "a2")
    one.remove("a1")
    one.remove("a1")
    one.remove("b0")
    assert pull_all(one) == [("e0", [["a0"]])]
    assert one.num_waiting == 1


def test_an_item_that_lost_its_edge_goes_first_and_elsewhere() -> None:
    one = dispatcher(1, 1)
    push(one, "a0", tokens=200)
    one.push("a1", Ticket("a", needs(10), goes_first=True, avoid=("e0",)), 0.0)
    assert pull_all(one) == [("e1", [["a1"]]), ("e0", [["a0"]])]


def test_items_of_a_gone_edge_can_still_be_removed() -> None:
    one = dispatcher(1)
    push(one, "a0")
    pull_all(one)
    one.wrote("a0", 1, 1.0)
    one.remove_edge("e0")
    one.self_check()
    one.wrote("a0", 1, 1.0)
    one.add_edge("e0", 1, 1000, PACE)
    one.self_check()
    assert one.num_in_flight("e0") == 0
    one.remove("a0")
    one.self_check()


def test_a_text_longer_than_predicted_lengthens_the_backlog() -> None:
    one = dispatcher(1)
    push(one, "a0", tokens=10)
    pull_all(one)
    before = one.backlog_s(0.3)
    one.wrote("a0", 6, 0.3)
    assert one.backlog_s(0.3) == before
    one.wrote("a0", 5, 0.3)
    assert one.backlog_s(0.3) > before


def test_an_edge_that_claims_to_have_written_without_end_is_not_believed() -> None:
    one = dispatcher(1)
    push(one, "a0", tokens=10)
    pull_all(one)
    for _ in range(5000):
        one.wrote("a0", 2**20 - 1, 0.3)
    one.self_check()
    assert 0 < one.backlog_s(0.3) < float("inf")


def test_an_unavailable_edge_keeps_what_it_has_and_gets_no_more() -> None:
    one = dispatcher(2)
    push(one, "a0")
    pull_all(one)
    one.set_available("e0", False)
    push(one, "b0")
    assert pull_all(one) == []
    assert (one.num_in_flight("e0"), one.num_waiting) == (1, 1)
    one.set_available("e0", True)
    assert pull_all(one) == [("e0", [["b0"]])]


def test_depths_are_told_by_list_or_of_the_one_queue() -> None:
    by_list, one_queue = dispatcher(), dispatcher(discipline="fifo")
    for to in (by_list, one_queue):
        push(to, "a0", "b0", tokens=20)
        push(to, "c0", tokens=300)
    assert by_list.queue_depths() == {"32": 2, "64": 0, "128": 0, "256": 0, "longer": 1}
    assert one_queue.queue_depths() == {"all": 3}


def test_a_faster_pace_draws_the_next_item() -> None:
    one = dispatcher(1, 1)
    one.set_pace("e0", Pace(0.0, 0.01, ((1, 0.2),)))
    push(one, "a0")
    assert pull_all(one) == [("e1", [["a0"]])]


def test_pace_between_two_sizes_lies_on_the_line() -> None:
    assert PACE.step(1) == 0.02
    assert PACE.step(8) == PACE.step(50) == 0.04
    assert PACE.step(4) == pytest.approx(0.02 + 0.02 * 3 / 7)


@pytest.mark.parametrize("discipline", ["lists", "fifo", "round_robin"])
@pytest.mark.parametrize("seed", range(4))
def test_random_histories_end_with_empty_tables(discipline: str, seed: int) -> None:
    rng = random.Random(seed)
    one = dispatcher(2, 3, discipline=discipline)
    given: list[str] = []
    for step in range(400):
        action = rng.random()
        if action < 0.4:
            push(one, f"{rng.choice('abcd')}{step}", now=0.1 * step, tokens=rng.randint(1, 300))
        elif action < 0.6:
            given += [item for _, gs in pull_all(one, 0.1 * step) for g in gs for item in g]
        elif given:
            one.remove(given.pop(rng.randrange(len(given))))
        one.self_check()
    while given:
        one.remove(given.pop())
        given += [item for _, gs in pull_all(one, 1e4) for g in gs for item in g]
    assert (one.num_waiting, one.num_in_flight("e0"), one.num_in_flight("e1")) == (0, 0, 0)
    assert not one._groups
    assert not one._waiting
