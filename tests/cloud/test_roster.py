"""Roster over a link that counts what it is asked: what is looked at, and what the policy sees."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from scripted import expansion, hello

from picert.cloud.breaker import Breaker
from picert.cloud.roster import Roster
from picert.cloud.seat import Seat
from picert.config import PolicyConfig
from picert.messages import ModelInfo, SpeedCurve
from picert.pice.dispatch import Dispatcher, Ticket
from picert.pice.needs import JobNeeds
from picert.pice.objective import MAX_EDGES, share_of_edges_s

NUM_EDGES = 200


class CountingLink:
    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.silent: set[str] = set()

    def state(self, name: str) -> str:
        self.asked[name] += 1
        return "probation" if name in self.silent else "alive"

    def load(self, name: str) -> None:
        return None


class Fleet:
    """A roster of edges, its link and its clock."""

    def __init__(self, num_edges: int = NUM_EDGES, **policy: object) -> None:
        self.now = 0.0
        self.link = CountingLink()
        self.dispatcher: Dispatcher[str] = Dispatcher()
        self.roster = Roster(
            self.link,  # type: ignore[arg-type]
            self.dispatcher,
            PolicyConfig(**policy),  # type: ignore[arg-type]
            self.clock,
        )
        for number in range(num_edges):
            self.join(f"e{number}")
        self.roster.look()
        self.link.asked.clear()

    def clock(self) -> float:
        return self.now

    def join(self, name: str, **changes: object) -> None:
        told = msgspec.structs.replace(hello(name, 2, step_s=0.05), **changes)
        self.roster.join(name, Seat(told, Breaker(self.clock, None)))  # type: ignore[arg-type]

    def give(self, num_jobs: int) -> None:
        for number in range(num_jobs):
            needs = JobNeeds(100, 10, 20, 150)
            self.dispatcher.push(f"job {number}", Ticket(number, needs), self.now)
        while self.dispatcher.pull(self.now):
            pass


def test_one_job_makes_nobody_look_at_all_edges() -> None:
    fleet = Fleet()
    for _ in range(20):
        fleet.roster.look_at("e7")
        fleet.roster.look()
        fleet.roster.load(0, 40.0)
        fleet.roster.slowest()
    assert fleet.link.asked == {"e7": 20}


def test_all_edges_are_looked_at_again_after_a_while_and_when_one_leaves() -> None:
    fleet = Fleet()
    fleet.link.silent = {"e3"}
    assert fleet.roster.load(0, 40.0).num_edges == NUM_EDGES
    fleet.now = 0.1
    assert fleet.roster.load(0, 40.0).num_edges == NUM_EDGES - 1
    fleet.link.silent = {"e3", "e4"}
    fleet.roster.leave("e9")
    assert fleet.roster.load(0, 40.0).num_edges == NUM_EDGES - 3


def test_the_policy_sees_the_least_loaded_edges_and_what_share_of_all_they_are() -> None:
    fleet = Fleet()
    fleet.give(NUM_EDGES - 5)
    load = fleet.roster.load(3, 40.0)
    assert [edge.num_in_flight for edge in load.edges] == [0] * 5 + [1] * (MAX_EDGES - 5)
    assert load.edges_share == pytest.approx(MAX_EDGES / NUM_EDGES)
    assert (load.num_edge_jobs, load.num_edge_running) == (NUM_EDGES - 5, NUM_EDGES - 5)
    assert (load.edge_slots, load.edge_context, load.num_cloud_running) == (400, 4096, 3)
    # so a job takes as much of all edges as if each had been looked at
    each = share_of_edges_s(load.edges, 24, 40.0) * load.edges_share
    assert each == pytest.approx(share_of_edges_s([load.edges[0]] * NUM_EDGES, 24, 40.0))


def test_few_edges_are_all_seen() -> None:
    load = Fleet(3).roster.load(0, 40.0)
    assert (len(load.edges), load.edges_share) == (3, 1.0)


def test_models_are_thought_about_for_a_few_edges_at_a_time_and_for_each_in_turn() -> None:
    fleet = Fleet(0, switch_dwell_s=1000.0, switch_slack_s=0.001)
    models = (ModelInfo("large", "l", 1000, 2048), ModelInfo("small", "s", 100, 2048))
    curves = tuple(
        SpeedCurve(model=name, prefill_s_per_token=step_s / 20, decode_s_per_token={1: step_s})
        for name, step_s in (("large", 0.5), ("small", 0.05))
    )
    for number in range(20):
        fleet.join(f"e{number}", models=models, curves=curves)
    fleet.give(1)  # so that there is something to be done in time
    for count in (8, 16, 20, 20):
        fleet.roster.switch_models()
        assert fleet.roster.switches["down"] == count, fleet.roster.switches


def test_the_slowest_edge_is_found_anew_when_one_comes() -> None:
    fleet = Fleet(2)
    assert fleet.roster.slowest().decode_seconds(1) == pytest.approx(0.05)
    fleet.roster.join("slow", Seat(hello("slow", 2, step_s=0.5), Breaker(fleet.clock, None)))  # type: ignore[arg-type]
    assert fleet.roster.slowest().decode_seconds(1) == pytest.approx(0.5)


def test_a_text_teaches_its_edge_and_those_that_were_never_tried() -> None:
    fleet = Fleet(0)
    for name in ("a", "b"):
        fleet.roster.join(name, Seat(hello(name, 2), Breaker(fleet.clock, None)))  # type: ignore[arg-type]
    told = msgspec.structs.replace(expansion(), completion_tokens=8, seconds=0.01)
    for _ in range(3):
        fleet.roster.learn("a", told, hello("a").models[0].name)
    speeds = [fleet.roster.seat(name).speed.decode_seconds(1) for name in ("a", "b")]  # type: ignore[union-attr]
    assert speeds[0] == speeds[1] < 0.1
