"""The choice among candidates: cases, and properties that hold for any question and load."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.config import PolicyConfig
from picert.pice.length import LengthForecast
from picert.pice.objective import Candidate, CloudState, EdgeState, Outlook
from picert.pice.options import Options, Question
from picert.pice.profile import SpeedProfile
from picert.pice.quality import QualityTable
from picert.pice.router import QuestionClass, Suitability

CONFIG = PolicyConfig()
CLOUD_SPEED = SpeedProfile.of_tables([(512, 1, 2.0)], [(1, 64, 0.06), (4, 64, 0.09), (16, 64, 0.2)])
EDGE_SPEED = SpeedProfile.of_tables([(512, 1, 0.5)], [(1, 64, 0.02), (4, 64, 0.03), (16, 64, 0.08)])
IDLE = Outlook(CloudState(CLOUD_SPEED), (EdgeState(8, 0, EDGE_SPEED, 0.01, "small"),) * 2, 40)


def question(
    score: float, tokens: int = 250, question_class: QuestionClass = "generic"
) -> Question:
    suits = Suitability(score, question_class, ("said so",))
    return Question(suits, LengthForecast(tokens, 2 * tokens))


def best(asked: Question, outlook: Outlook = IDLE, config: PolicyConfig = CONFIG) -> Candidate:
    options = Options(asked, outlook, config, QualityTable())
    return options.best([options.direct(), options.edge_only(), *options.sketches()])


def priced(price: float) -> Outlook:
    return replace(IDLE, price=price)


def test_without_load_a_suitable_question_is_sketched_and_an_unsuitable_is_direct() -> None:
    assert best(question(0.9)).route == "sketch"
    assert best(question(0.1)).route == "direct"


def test_under_load_unsuitable_questions_are_sketched_too() -> None:
    assert best(question(0.1), priced(10.0)).route == "sketch"


def test_under_load_sketches_are_shorter() -> None:
    points = [best(question(0.9), priced(price)).num_points for price in (0.0, 5.0, 50.0)]
    assert points == sorted(points, reverse=True)
    assert points[-1] < points[0]


@pytest.mark.parametrize("question_class", ["coding", "math", "fermi"])
def test_no_load_makes_a_sketch_of_what_one_wrong_step_spoils(
    question_class: QuestionClass,
) -> None:
    assert best(question(0.1, question_class=question_class), priced(50.0)).route == "direct"


def test_with_price_switched_off_the_load_changes_nothing() -> None:
    config = PolicyConfig(price=False)
    assert best(question(0.1), priced(50.0), config) == best(question(0.1), IDLE, config)


def test_edges_that_are_busy_make_a_question_direct() -> None:
    busy = replace(IDLE, edges=(EdgeState(8, 80, EDGE_SPEED),))
    assert best(question(0.9), busy).route == "direct"


def test_idle_edges_write_several_candidates_where_that_costs_no_time() -> None:
    free = EdgeState(32, 0, SpeedProfile(1e6, 1e-4))
    wide = best(question(0.9), replace(IDLE, edges=(free, free)))
    assert wide.width > 1
    config = PolicyConfig(ensemble=False)
    assert best(question(0.9), replace(IDLE, edges=(free, free)), config).width == 1
    narrow = replace(free, num_in_flight=30)
    assert best(question(0.9), replace(IDLE, edges=(narrow,))).width == 1


def test_an_easy_short_answer_goes_to_an_edge_under_load() -> None:
    easy = replace(question(0.1, tokens=30), is_one_fact=True)
    assert best(easy).route == "direct"
    assert best(easy, priced(10.0)).route == "edge_only"


def test_a_tight_slo_forbids_what_a_loose_one_allows() -> None:
    slow = replace(IDLE, edges=(EdgeState(8, 0, SpeedProfile(500.0, 0.6)),), price=50.0)
    assert best(question(0.9), slow).route == "direct"
    assert best(question(0.9), slow, PolicyConfig(slo_s=60.0)).route == "sketch"


def test_edges_that_are_dear_write_fewer_candidates_and_then_nothing() -> None:
    free = EdgeState(32, 0, SpeedProfile(1e6, 1e-4))
    idle = replace(IDLE, edges=(free, free))
    wide, narrow, none = (
        best(question(0.9), replace(idle, edge_price=price)) for price in (0.0, 1e4, 1e6)
    )
    assert wide.width > narrow.width == 1
    assert (wide.route, narrow.route, none.route) == ("sketch", "sketch", "direct")


def test_fewer_points_take_less_of_the_edges_where_expansions_keep_their_length() -> None:
    def taken(expansion_tokens: float) -> list[float]:
        outlook = replace(IDLE, expansion_tokens=expansion_tokens)
        sketches = Options(question(0.9), outlook, CONFIG, QualityTable()).sketches()
        return [sketch.edge_seconds / sketch.num_points for sketch in sketches]

    assert len(set(taken(24.0))) == 1  # the same for each point
    assert len(set(taken(96.0))) > 1  # whoever fills its room writes more of fewer


def test_dear_edges_and_a_dear_cloud_balance() -> None:
    both = replace(IDLE, price=30.0, edge_price=30.0)
    assert best(question(0.5), replace(IDLE, edge_price=30.0)).route == "direct"
    assert best(question(0.5), both).route == "sketch"


_SPEEDS = st.builds(
    lambda prefill, step, growth: SpeedProfile.of_tables(
        [(512, 1, prefill)], [(1, 0, step), (16, 0, step * growth)]
    ),
    st.floats(0.01, 10),
    st.floats(0.001, 0.5),
    st.floats(1.0, 16.0),
)
_EDGES = st.lists(
    st.builds(EdgeState, st.integers(1, 16), st.integers(0, 40), _SPEEDS, st.floats(0, 0.5)),
    max_size=3,
).map(tuple)
_WAITS = st.floats(0, 60)
_OUTLOOKS = st.builds(
    Outlook,
    st.builds(CloudState, _SPEEDS, st.integers(0, 30), st.integers(1, 32), st.floats(0, 60)),
    _EDGES,
    st.integers(1, 1000),
    st.booleans(),
    st.floats(0, 50),
    st.floats(0, 50),
)
_QUESTIONS = st.builds(
    Question,
    st.builds(Suitability, st.floats(0, 1), st.sampled_from(["generic", "math"]), st.just(("r",))),
    st.integers(1, 3000).map(lambda n: LengthForecast(n, 2 * n)),
    st.none() | st.integers(2, 8),
    st.booleans(),
)
_CONFIGS = st.builds(
    PolicyConfig,
    slo_s=st.none() | st.floats(0.5, 100),
    slack=st.floats(0, 0.5),
    w_quality=st.floats(0, 5),
    ensemble=st.booleans(),
)


@given(_QUESTIONS, _OUTLOOKS, _CONFIGS)
def test_no_plan_is_predicted_slower_than_direct_beyond_the_slack(
    asked: Question, outlook: Outlook, config: PolicyConfig
) -> None:
    chosen = best(asked, outlook, config)
    direct = outlook.direct_seconds(asked.tokens)
    idle = outlook.cloud.idle_seconds(outlook.prompt_tokens, asked.tokens)
    allowed = max((config.slo_s or idle) - idle, config.slack * idle)
    assert chosen.seconds <= direct + allowed + 1e-9
    if outlook.cloud.num_running == 0 and outlook.cloud.wait_s == 0:
        assert chosen.seconds <= max(config.slo_s or 0.0, direct * (1 + config.slack)) + 1e-9


@given(_QUESTIONS, _OUTLOOKS, _CONFIGS, st.tuples(st.floats(0, 50), st.integers(0, 30), _WAITS))
def test_more_backlog_never_means_more_cloud_seconds(
    asked: Question, outlook: Outlook, config: PolicyConfig, more: tuple[float, int, float]
) -> None:
    price, num_running, wait_s = more
    cloud = outlook.cloud
    fuller = replace(
        cloud, num_running=cloud.num_running + num_running, wait_s=cloud.wait_s + wait_s
    )
    later = replace(outlook, price=outlook.price + price, cloud=fuller)
    now, then = best(asked, outlook, config), best(asked, later, config)
    assert then.cloud_seconds <= now.cloud_seconds + 1e-9


@given(_QUESTIONS, _OUTLOOKS, _CONFIGS, st.floats(0, 50))
def test_dearer_edges_never_mean_more_of_their_seconds(
    asked: Question, outlook: Outlook, config: PolicyConfig, more: float
) -> None:
    later = replace(outlook, edge_price=outlook.edge_price + more)
    now, then = best(asked, outlook, config), best(asked, later, config)
    assert then.edge_seconds <= now.edge_seconds * (1 + 1e-9)


@given(_QUESTIONS, _OUTLOOKS, _CONFIGS)
def test_without_edges_every_question_is_direct(
    asked: Question, outlook: Outlook, config: PolicyConfig
) -> None:
    assert best(asked, replace(outlook, edges=()), config).route == "direct"


@given(_QUESTIONS, _OUTLOOKS, _CONFIGS)
def test_every_candidate_has_numbers(
    asked: Question, outlook: Outlook, config: PolicyConfig
) -> None:
    options = Options(asked, outlook, config, QualityTable())
    for candidate in [options.direct(), options.edge_only(), *options.sketches()]:
        assert candidate.seconds > 0
        assert 0 <= candidate.cloud_seconds < math.inf
        assert 0 <= candidate.quality <= 1
        takes_edges = candidate.route != "direct" and bool(outlook.edges)
        assert (candidate.edge_seconds > 0) == takes_edges
        assert math.isfinite(candidate.edge_seconds)


def test_repairs_keep_within_a_direct_answers_cost_and_end_where_the_cloud_is_dear() -> None:
    def repairs(outlook: Outlook) -> tuple[int, Candidate, Options]:
        options = Options(question(0.9), outlook, CONFIG, QualityTable())
        sketch = options.sketches()[0]
        return options.max_repairs(sketch), sketch, options

    count, sketch, options = repairs(IDLE)
    assert count >= 1
    each = (250 - 9 * sketch.num_points) / sketch.num_points
    taken = IDLE.cloud.share_seconds(IDLE.prompt_tokens, each)
    assert sketch.cloud_seconds + count * taken <= options.direct().cloud_seconds
    assert repairs(priced(50.0))[0] == 0


def test_candidates_that_the_cloud_is_to_read_take_some_of_its_time() -> None:
    checked = PolicyConfig(w_cloud_check=0.1)
    free = EdgeState(32, 0, SpeedProfile(1e6, 1e-4))
    outlook = replace(IDLE, edges=(free, free))
    wide, asked = best(question(0.9), outlook), best(question(0.9), outlook, checked)
    assert wide.width > 1
    taken = asked.cloud_seconds - wide.cloud_seconds
    assert taken > 0
    dear = replace(outlook, price=50.0)
    assert best(question(0.9), dear, checked).width == 1
    alone = Options(question(0.9), outlook, checked, QualityTable()).sketches()
    assert alone == Options(question(0.9), outlook, CONFIG, QualityTable()).sketches()


def test_however_long_the_queue_a_sketch_holds_most_of_the_answers_points() -> None:
    asked = question(0.9)
    for price in (0.0, 5.0, 50.0):
        sketches = Options(asked, priced(price), CONFIG, QualityTable()).sketches()
        short = [s for s in sketches if s.num_points < 0.75 * asked.num_points]
        assert short
        assert all("leave too much out" in (s.against or "") for s in short)
        assert best(asked, priced(price)) not in short
    assert best(asked, priced(50.0), PolicyConfig(min_points_share=0.0)).num_points < 4
