"""The real service over simulated engines: what comes of it can be computed, repeated, and is
complete under churn and loss."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from picert.config import Mode, PolicyConfig
from picert.messages import Calibration
from picert.pice.profile_file import ModelProfile
from picert.simulate.cells import Cell, mode_name, simulate
from picert.simulate.clock import run
from picert.simulate.engine import EngineLimits
from picert.simulate.figures import Row
from picert.simulate.link import Network
from picert.simulate.load import Load
from picert.simulate.questions import Question
from picert.simulate.system import Churn, Overheads, Runs, Setting, running
from picert.simulate.workload import Lengths, Workload, Writing

ANSWER, READ_S, STEP_S = 99, 0.0005, 0.02
ASKED = "What are the most effective ways to deal with stress at work?"
WORKLOAD = Workload(
    source="made up",
    unfit={"small": 0.1},
    questions=tuple(
        Lengths(
            id=f"q{number}",
            question_class="generic",
            question=ASKED.replace("work", place),
            answer=ANSWER,
            lines=(6, 5, 7, 6),
            whole={"small": 80},
            expansions={"small": (25, 30, 35)},
        )
        for number, place in enumerate(("work", "home", "school"))
    ),
)


def runs(name: str, speed_up: float = 1.0, **limits: int) -> Runs:
    profile = ModelProfile(
        model=name,
        threads=1,
        load_s=0.0,
        prefill=((1000, 1, 1000 * READ_S / speed_up),),
        decode=((1, 64, STEP_S / speed_up), (32, 64, 2 * STEP_S / speed_up)),
        calibration=Calibration(-1.0, 0.1),
    )
    return Runs(name, profile, len(name), EngineLimits(**limits))


def setting(mode: Mode = "pice", edges: int = 2, **changes: object) -> Setting:
    whole = Setting(
        cloud=runs("large"),
        edges=((runs("small", 5.0),),) * edges,
        policy=PolicyConfig(mode=mode),
        network=Network(),
        churn=Churn(),
        overheads=Overheads(),
        deadline_s=300.0,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def cell(of: Setting, load: Load = Load("saturated"), requests: int = 24) -> Cell:  # noqa: B008
    return Cell(of, load, WORKLOAD, ("generic",), requests, 6)


def figures(of: Cell) -> Row:
    row = simulate(of)
    del row["wall_s"]
    return row


def test_direct_answers_one_at_a_time_take_what_the_profile_says() -> None:
    row = figures(cell(setting("direct"), Load("light")))
    steps_s = ANSWER * STEP_S  # the end is a token, the first of them comes with the prompt
    assert row["latency_p50_ms"] == pytest.approx(1000 * steps_s, rel=0.01)
    assert row["first_text_p50_ms"] < 30
    assert row["routes"] == {"direct": 1.0}
    assert row["cloud_tokens"] == 24 * (ANSWER + 1)


def test_one_place_with_poisson_arrivals_waits_as_a_queue_of_fixed_service_does() -> None:
    of = setting("direct", 0, cloud=runs("large", max_num_seqs=1))
    service_s = ANSWER * STEP_S + 0.01
    share = 0.5
    load = Load("poisson", per_min=60 * share / service_s)
    row = figures(cell(of, load, 2500))
    wait_s = row["queue_ms_mean"] / 1000
    assert wait_s == pytest.approx(share * service_s / (2 * (1 - share)), rel=0.15)  # M/D/1


def test_sketches_and_edges_make_answers_faster_than_direct() -> None:
    direct, pice = figures(cell(setting("direct"))), figures(cell(setting()))
    assert pice["routes"].get("sketch", 0) > 0.5
    assert pice["requests_per_min"] > direct["requests_per_min"]
    assert pice["cloud_tokens"] < direct["cloud_tokens"]


def test_the_same_seed_gives_the_same_figures_and_another_gives_others() -> None:
    of = setting(network=Network(0.02, 0.02), churn=Churn(60.0, 5.0))
    first = figures(cell(of, Load("40/min", per_min=40)))
    assert figures(cell(of, Load("40/min", per_min=40))) == first
    other = figures(cell(replace(of, seed=1), Load("40/min", per_min=40)))
    assert other["latency_p50_ms"] != first["latency_p50_ms"]


@pytest.mark.parametrize("mode", ["pice", "static", "edge_only", "sot"])
def test_every_question_ends_once_though_edges_crash_and_messages_are_late(mode: Mode) -> None:
    of = setting(mode, 3, network=Network(0.05, 0.1), churn=Churn(400.0, 4.0))
    row = figures(cell(of, requests=60))
    assert row["num_questions"] == 60
    assert row["failures"] == 0, row["errors"]
    assert sum(row["routes"].values()) == pytest.approx(1.0, abs=0.01)


def test_nothing_is_held_when_all_is_answered() -> None:
    async def main() -> None:
        of = setting(churn=Churn(400.0, 4.0), edges=3)
        question = Question(id="q0", question_class="generic", question=ASKED)
        async with running(of, Writing(WORKLOAD, 0)) as system:
            answers = await asyncio.gather(*(system.ask(question) for _ in range(30)))
            assert all((a.done is None) != (a.error is None) for a in answers)
            await asyncio.sleep(60)
            system.self_check()
            assert (system.pool.num_open, system.service.num_in_flight) == (0, 0)

    run(main)


@pytest.mark.parametrize("mode", ["pice", "edge_only"])
def test_an_edge_ten_times_slower_makes_no_answer_later(mode: Mode) -> None:
    alone = setting(mode)
    joined = replace(alone, edges=(*alone.edges, (runs("small", 0.5),)))
    load = Load("40/min", per_min=40)
    before, after = (figures(cell(of, load, 100)) for of in (alone, joined))
    assert after["latency_p95_ms"] <= 1.02 * before["latency_p95_ms"]
    assert after["latency_p50_ms"] <= 1.02 * before["latency_p50_ms"]


def test_edges_that_share_a_host_are_slower_than_those_that_do_not() -> None:
    apart = figures(cell(setting("edge_only", 4)))
    together = figures(cell(setting("edge_only", 4, edges_per_host=4)))
    assert together["latency_p50_ms"] > 1.5 * apart["latency_p50_ms"]


def test_a_link_of_200_ms_delays_what_edges_write_and_not_direct_answers() -> None:
    def p50(mode: Mode, rtt_s: float) -> float:
        of = setting(mode, network=Network(rtt_s))
        return float(figures(cell(of, Load("light"), 6))["latency_p50_ms"])

    assert p50("edge_only", 0.2) == pytest.approx(p50("edge_only", 0.0) + 200, abs=20)
    assert p50("direct", 0.2) == p50("direct", 0.0)


def test_a_trace_says_when_questions_come() -> None:
    row = figures(cell(setting("direct"), Load("trace", times=(0.0, 10.0, 50.0)), 3))
    assert row["seconds"] == pytest.approx(50 + ANSWER * STEP_S, abs=0.1)


def test_refused_clients_ask_again_later_and_time_goes_on() -> None:
    of = setting("direct", 0, cloud=runs("large", max_num_seqs=1, max_num_queued_reqs=1))
    row = figures(cell(of))
    assert row["errors"] == {"queue_full": row["failures"]}


def test_name_of_a_mode_tells_what_is_switched_off() -> None:
    assert mode_name(PolicyConfig()) == "pice"
    assert mode_name(PolicyConfig(grouping=False, price=False)) == "pice_no_grouping_no_price"


def test_a_cloud_that_reads_candidates_reads_more_and_writes_no_more() -> None:
    plain, checked = (
        figures(cell(setting(policy=PolicyConfig(w_cloud_check=weight)), Load("light")))
        for weight in (0.0, 0.1)
    )
    assert (plain["mode"], checked["mode"]) == ("pice", "pice_with_cloud_check")
    assert checked["cloud_prompt_tokens"] > plain["cloud_prompt_tokens"]
    assert checked["cloud_tokens"] <= plain["cloud_tokens"]
    assert checked["failures"] == 0
