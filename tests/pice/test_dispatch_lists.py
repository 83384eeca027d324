"""picert._C.DispatchLists against its slow twin, over random histories, and rule by rule."""

import random

import pytest
from dispatch_twin import TwinLists

from picert import _C

DISCIPLINES = ["lists", "fifo", "shortest_first", "round_robin", "least_loaded"]


def speed(rng: random.Random) -> dict[str, object]:
    factor = rng.choice((1.0, 1.0, 2.0, 10.0))
    steps = [(1, 0.02 * factor), (4, 0.03 * factor), (8, 0.06 * factor)]
    return {
        "link_s": rng.choice((0.0, 0.05)),
        "read_s": 0.002 * factor,
        "step_s": steps[: rng.randint(1, 3)],
    }


class History:
    """The same random operations on both."""

    def __init__(self, discipline: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.core = _C.DispatchLists(discipline, 1.0)
        self.twin = TwinLists(discipline, 1.0)
        self.edges: list[int] = []
        self.jobs: list[int] = []
        self.num_jobs = 0
        self.now = 100.0

    def both(self, name: str, *args: object, **kwargs: object) -> object:
        results = [getattr(one, name)(*args, **kwargs) for one in (self.core, self.twin)]
        assert results[0] == results[1], name
        self.core.self_check()
        return results[0]

    def step(self) -> None:
        self.now += self.rng.choice((0.0, 0.01, 0.3, 3.0))
        often, rest = ("add", "pull", "remove"), ("recount", "edge", "tune", "see")
        action = self.rng.choice((*often, *often, "add", *rest))
        getattr(self, f"_{action}")()

    def _edge(self) -> None:
        if len(self.edges) < 4:
            fields = {"slots": self.rng.randint(1, 3), "kv_tokens": self.rng.choice((300, 5000))}
            self.edges.append(self.both("add_edge", **fields, **speed(self.rng)))
        elif self.rng.random() < 0.3:
            self.both("remove_edge", self.edges.pop(self.rng.randrange(len(self.edges))))

    def _tune(self) -> None:
        if self.edges and self.rng.random() < 0.5:
            self.both("set_speed", self.rng.choice(self.edges), **speed(self.rng))
        elif self.edges:
            self.both("set_available", self.rng.choice(self.edges), self.rng.random() < 0.8)

    def _see(self) -> None:
        self.both("least_loaded", self.rng.randint(0, 5))
        some = [edge for edge in self.edges if self.rng.random() < 0.5]
        own, whole = self.twin.tokens_per_s(some), self.twin.tokens_per_s(self.edges)
        assert self.core.share_of_speed(some) == pytest.approx(own / whole if own else 0.0)
        for edge in self.edges:
            others = whole - self.twin.tokens_per_s([edge])
            assert self.core.others_tokens_per_s(edge) == pytest.approx(others)

    def _add(self) -> None:
        self.num_jobs += 1
        self.jobs.append(self.num_jobs)
        self.both(
            "add",
            self.num_jobs,
            self.rng.randint(1, 4),
            prompt_tokens=self.rng.choice((60, 450)),
            tail_tokens=self.rng.randint(0, 50),
            tokens=self.rng.choice((self.rng.randint(1, 64), self.rng.randint(1, 400))),
            kv_tokens=self.rng.randint(0, 200),
            now=self.now,
            goes_first=self.rng.random() < 0.1,
            avoid=[e for e in self.edges if self.rng.random() < 0.15],
        )

    def _pull(self) -> None:
        while self.both("pull", self.now):
            pass

    def _remove(self) -> None:
        if self.jobs:
            self.both("remove", self.jobs.pop(self.rng.randrange(len(self.jobs))))

    def _recount(self) -> None:
        if self.jobs:
            self.both("recount", self.rng.choice(self.jobs), self.rng.randint(0, 600), self.now)


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("seed", range(8))
def test_every_choice_is_the_twins(discipline: str, seed: int) -> None:
    history = History(discipline, seed)
    for _ in range(250):
        history.step()
    assert history.core.num_waiting == len(history.twin.waiting())
    assert history.core.num_free == history.twin.num_free
    assert history.core.pulls == history.twin.num_pulls
    for job in history.jobs:
        history.both("remove", job)
    assert (history.core.num_waiting, history.core.num_requests) == (0, 0)


def lists(discipline: str = "lists", aging_s: float = 1000.0) -> _C.DispatchLists:
    return _C.DispatchLists(discipline, aging_s)


def edge(core: _C.DispatchLists, *, slots: int = 1, kv: int = 10_000, factor: float = 1.0) -> int:
    return core.add_edge(
        slots=slots,
        kv_tokens=kv,
        link_s=0.0,
        read_s=0.001 * factor,
        step_s=[(1, 0.02 * factor), (8, 0.04 * factor)],
    )


def add(
    core: _C.DispatchLists, job: int, tokens: int = 50, now: float = 0.0, **fields: object
) -> None:
    size = {"prompt_tokens": 100, "tail_tokens": 10, "kv_tokens": 100}
    request = fields.pop("request", job)
    core.add(job, request, tokens=tokens, now=now, **{**size, **fields})  # type: ignore[arg-type]


def test_a_batch_is_of_one_list_the_one_with_most_to_write() -> None:
    core = lists()
    edge(core, slots=2)
    for job, tokens in enumerate((20, 100, 20, 100, 20)):
        add(core, job, tokens)
    assert core.pull(0.0) == (0, [1, 3])


def test_places_left_are_filled_from_the_nearest_list() -> None:
    core = lists()
    edge(core, slots=3)
    for job, tokens in enumerate((300, 100, 20, 60)):
        add(core, job, tokens)
    assert core.pull(0.0) == (0, [0, 1, 3])
    assert core.stolen == 2


def test_an_old_job_goes_before_the_longest_list() -> None:
    core = lists(aging_s=2.0)
    edge(core)
    add(core, 0, tokens=10, now=0.0)
    for job in (1, 2):
        add(core, job, tokens=200, now=1.5)
    assert core.pull(1.0) == (0, [1])
    core.remove(1)
    assert core.pull(2.5) == (0, [0])


def test_a_job_that_lost_its_edge_goes_before_an_old_one() -> None:
    core = lists(aging_s=0.0)
    edge(core)
    add(core, 0, tokens=100)
    add(core, 1, tokens=10, now=1.0, goes_first=True)
    assert core.pull(5.0) == (0, [1])


def test_jobs_of_one_request_stay_where_its_prompt_was_read() -> None:
    core = lists()
    for _ in range(2):
        edge(core, slots=4)
    for job in range(4):
        add(core, job, tokens=5, request=job % 2, prompt_tokens=2000)
    where = {}
    while pulled := core.pull(0.0):
        where.update(dict.fromkeys(pulled[1], pulled[0]))
    assert where[0] == where[2] != where[1] == where[3]


def test_an_edge_ten_times_slower_gets_nothing_while_waiting_is_quicker() -> None:
    core = lists()
    fast, slow = edge(core, slots=2), edge(core, slots=2, factor=10.0)
    for job in range(6):
        add(core, job)
    assert core.pull(0.0) == (fast, [0, 1])
    assert core.pull(0.0) is None
    assert (core.num_running(slow), core.held) == (0, 1)


def test_a_slow_edge_helps_once_the_others_would_need_longer() -> None:
    core = lists()
    fast, slow = edge(core, slots=2), edge(core, slots=2, factor=10.0)
    for job in range(40):
        add(core, job)
    taken = {}
    while pulled := core.pull(0.0):
        taken.setdefault(pulled[0], []).extend(pulled[1])
    assert len(taken[fast]) == 2
    assert 1 <= len(taken[slow]) <= 2


def test_a_job_is_not_held_for_ever_for_an_edge_that_hangs() -> None:
    core = lists()
    fast, slow = edge(core), edge(core, factor=10.0)
    add(core, 0)
    assert core.pull(0.0) == (fast, [0])
    add(core, 1)
    assert core.pull(1.0) is None
    assert core.pull(60.0) == (slow, [1])


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_memory_is_kept_for_what_runs_but_an_idle_edge_takes_anything(discipline: str) -> None:
    core = lists(discipline)
    edge(core, slots=3, kv=150)
    for job in range(2):
        add(core, job)
    assert core.pull(0.0) == (0, [0])
    assert core.pull(0.0) is None
    core.remove(0)
    add(core, 2, kv_tokens=100_000)
    core.remove(1)
    assert core.pull(0.0) == (0, [2])


def test_nothing_overtakes_an_old_job_that_lacks_memory() -> None:
    core = lists(aging_s=1.0)
    edge(core, slots=3, kv=150)
    add(core, 0)
    assert core.pull(0.0) == (0, [0])
    add(core, 1, kv_tokens=140)
    add(core, 2, tokens=200, kv_tokens=10, now=4.5)
    assert core.pull(5.0) is None
    core.remove(0)
    assert core.pull(5.0) == (0, [1, 2])


def test_an_avoided_edge_is_the_last_resort() -> None:
    core = lists()
    first, second = edge(core), edge(core)
    add(core, 0, avoid=[first])
    assert core.pull(0.0) == (second, [0])
    add(core, 1, avoid=[first])
    assert core.pull(0.0) is None  # it waits for the other
    core.remove_edge(second)
    assert core.pull(0.0) == (first, [1])


def test_a_job_that_overruns_is_predicted_anew_and_keeps_its_place() -> None:
    core = lists()
    edge(core)
    add(core, 0, tokens=30)
    core.pull(0.0)
    before = core.backlog_s(0.5)
    assert core.recount(0, 30, 0.5) == 32
    assert core.recount(0, 32, 0.5) == 64
    assert core.recount(0, 300, 0.5) == 600
    assert core.backlog_s(0.5) > before
    assert (core.num_free, core.overruns) == (0, 3)
    assert core.recount(7, 10, 0.5) == 0


def test_a_clock_that_jumps_loses_nothing() -> None:
    core = lists(aging_s=1.0)
    for _ in range(2):
        edge(core, slots=2)
    done = 0
    for job, now in enumerate((10.0, 1e9, 5.0, -1e6, 20.0, 20.0, 1e12, 0.0)):
        add(core, job, now=now)
        while pulled := core.pull(now):
            core.self_check()
            for taken in pulled[1]:
                done += core.remove(taken)
    assert (done, core.num_waiting) == (8, 0)


def test_gone_edge_takes_its_jobs_along_and_its_id_is_given_again() -> None:
    core = lists()
    old = edge(core, slots=2)
    add(core, 0, request=7)
    add(core, 1, request=7)
    core.pull(0.0)
    core.remove_edge(old)
    assert (core.num_slots, core.num_requests, core.remove(0)) == (0, 0, False)
    assert edge(core) == old
    with pytest.raises(ValueError, match="edge 5 does not exist"):
        core.remove_edge(5)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tokens": 0}, "0 tokens to write"),
        ({"tail_tokens": 101}, "101 own tokens of 100"),
        ({"kv_tokens": -1}, "-1 tokens in memory"),
        ({"now": float("nan")}, "the time is nan"),
    ],
)
def test_jobs_that_cannot_be_true_are_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        add(lists(), 0, **fields)  # type: ignore[arg-type]


def test_an_unknown_discipline_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'random', must be lists, fifo"):
        lists("random")


def test_one_of_two_equal_idle_edges_begins_at_once() -> None:
    core = lists()
    for _ in range(2):
        edge(core)
    add(core, 0)
    assert core.pull(0.0) == (0, [0])
    add(core, 1)
    assert core.pull(0.0) == (1, [1])
