"""The policy as a table of cases, and properties that hold for any input."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.config import Mode, PolicyConfig
from picert.messages import ChatMessage, Request, Role, Route, SamplingParams
from picert.pice.features import read_request
from picert.pice.length import LengthForecast, LengthPredictor
from picert.pice.policy import Load, Plan, PlanInput, job_deadline_s, plan
from picert.pice.profile import SpeedProfile
from picert.pice.router import Suitability

QUESTION = "What are the most effective ways to deal with stress?"
CONFIG = PolicyConfig()
IDLE = Load(num_edges=2, edge_slots=8, edge_context=2048)


def _request(*turns: tuple[Role, str], route: Route = "auto", **sampling: object) -> Request:
    turns = turns or (("user", QUESTION),)
    return Request(
        request_id="r",
        messages=tuple(ChatMessage(role, content) for role, content in turns),
        sampling=msgspec.structs.replace(SamplingParams(max_tokens=512), **sampling),
        route=route,
    )


def _plan(request: Request, load: Load = IDLE, config: PolicyConfig = CONFIG) -> Plan:
    features = read_request(request, 40, LengthPredictor())
    return plan(features, load, SpeedProfile(), config)


def test_a_question_of_several_points_is_sketched_within_its_budgets() -> None:
    chosen = _plan(_request())
    assert chosen.route == "sketch"
    assert 3 <= chosen.max_segments <= CONFIG.max_segments
    assert 30 <= chosen.sketch_tokens <= 120
    assert 16 <= chosen.expansion_tokens <= CONFIG.max_expansion_tokens


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (_request(("user", "What is 17 * 23?")), "quality would be under 0.9"),
        (_request(("user", "What are the benefits of tea? Answer in two sentences.")), "too few"),
        (_request(("user", "List three benefits of tea in about 40 words.")), "too few to share"),
        (_request(("user", "List 30 ways to reuse a jar.")), "30 points"),
        (_request(max_tokens=60), "too few to share"),
        (_request(("user", "Hi"), ("assistant", "Hello!"), ("user", QUESTION)), "earlier turns"),
        (_request(("system", "Speak like a pirate."), ("user", QUESTION)), "system message"),
        (_request(("system", "You are an assistant who rhymes."), ("user", QUESTION)), "system"),
        (_request(stop=("END",)), "stop strings"),
        (_request(logprobs=2), "log-probabilities"),
        (_request(logit_bias={5: 1.0}), "logit_bias"),
        (_request(min_tokens=5), "minimum length"),
        (_request(route="direct"), "asks for a direct"),
    ],
)  # fmt: skip
def test_what_does_not_suit_is_direct_with_the_reason(request_: Request, reason: str) -> None:
    chosen = _plan(request_)
    assert chosen.route == "direct"
    assert reason in chosen.reasons[-1]


@pytest.mark.parametrize("route", ["auto", "sketch", "edge_only"])
def test_no_edge_means_direct(route: Route) -> None:
    chosen = _plan(_request(route=route), Load(num_edges=0))
    assert chosen.route == "direct"
    assert "no edge" in chosen.reasons[-1]


def test_edges_that_are_overrun_mean_direct() -> None:
    chosen = _plan(_request(), Load(num_edges=1, edge_slots=2, num_edge_jobs=8))
    assert chosen.route == "direct"
    assert "it would take longer" in chosen.reasons[-1]


def test_a_baseline_counts_the_jobs_that_wait() -> None:
    busy, static = Load(num_edges=1, edge_slots=2, num_edge_jobs=8), PolicyConfig(mode="static")
    chosen = _plan(_request(), busy, static)
    assert chosen.reasons[-1] == "direct: 8 jobs wait for 2 edge slots"


def test_a_prompt_over_the_edges_context_is_direct() -> None:
    chosen = _plan(_request(route="sketch"), Load(num_edges=1, edge_slots=2, edge_context=256))
    assert chosen.route == "direct"
    assert "context of 256" in chosen.reasons[-1]


@pytest.mark.parametrize(
    "turns",
    [
        (("user", "What is 17 * 23?"),),
        (("system", "Speak like a pirate."), ("user", QUESTION)),
        (("user", "Hi"), ("assistant", "Hello!"), ("user", QUESTION)),
    ],
)
def test_a_forced_sketch_is_kept(turns: tuple[tuple[Role, str], ...]) -> None:
    chosen = _plan(_request(*turns, route="sketch"))
    assert chosen.route == "sketch"
    assert "asks for a sketch" in chosen.reasons[-1]


def test_a_forced_edge_answer_is_kept_while_it_fits() -> None:
    assert _plan(_request(route="edge_only")).route == "edge_only"
    assert _plan(_request(route="edge_only", max_tokens=4000)).route == "direct"


def test_a_forced_sketch_without_room_for_two_points_is_direct() -> None:
    chosen = _plan(_request(route="sketch", max_tokens=20))
    assert chosen.route == "direct"
    assert "max_tokens 20" in chosen.reasons[-1]


def test_a_forced_sketch_without_a_question_is_direct() -> None:
    turns: tuple[tuple[Role, str], ...] = (("user", QUESTION), ("assistant", "Well,"))
    assert _plan(_request(*turns, route="sketch")).route == "direct"


@pytest.mark.parametrize(
    "text",
    [
        "You are a helpful assistant.",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ],
)
def test_a_system_message_that_asks_for_help_alone_is_no_obstacle(text: str) -> None:
    assert _plan(_request(("system", text), ("user", QUESTION))).route == "sketch"


def test_the_requests_own_sketch_budget_is_kept() -> None:
    request = msgspec.structs.replace(_request(), sketch_tokens=33)
    assert _plan(request).sketch_tokens == 33


def test_a_named_number_of_points_is_planned() -> None:
    chosen = _plan(_request(("user", "Give me five tips for better sleep.")))
    assert chosen.max_segments == 5


UNSUITABLE = _request(("user", "What is 17 * 23?"))
ASKS_FOR_SKETCH = _request(route="sketch")


@pytest.mark.parametrize(
    ("mode", "request_", "route"),
    [
        ("pice", _request(), "sketch"),
        ("pice", UNSUITABLE, "direct"),
        ("direct", _request(), "direct"),
        ("edge_only", UNSUITABLE, "edge_only"),
        ("router", _request(), "edge_only"),
        ("router", UNSUITABLE, "direct"),
        ("sot", _request(), "sketch"),
        ("sot", UNSUITABLE, "direct"),
        ("static", _request(), "sketch"),
        ("static", UNSUITABLE, "direct"),
        ("direct", ASKS_FOR_SKETCH, "sketch"),
        ("sot", _request(route="edge_only"), "edge_only"),
        ("edge_only", _request(route="direct"), "direct"),
    ],
)
def test_the_mode_decides_where_the_request_does_not(
    mode: Mode, request_: Request, route: str
) -> None:
    assert _plan(request_, config=PolicyConfig(mode=mode)).route == route


@pytest.mark.parametrize("mode", ["edge_only", "router", "static"])
def test_baselines_without_edges_are_direct(mode: Mode) -> None:
    chosen = _plan(_request(), Load(num_edges=0), PolicyConfig(mode=mode))
    assert (chosen.route, chosen.reasons[-1]) == ("direct", "direct: no edge is connected")


def test_the_cloud_expands_its_own_sketch_without_edges() -> None:
    chosen = _plan(_request(), Load(num_edges=0), PolicyConfig(mode="sot"))
    assert (chosen.route, chosen.writer) == ("sketch", "cloud")


def test_reasons_tell_suitability_length_and_what_decided() -> None:
    first, second, third, last = _plan(_request()).reasons
    assert "suitability" in first
    assert "tokens" in second
    assert third == "price 0.00, of edges 0.00"
    assert last.startswith("sketch: sketch at")


def test_every_candidate_tells_its_numbers() -> None:
    told = [str(candidate) for candidate in _plan(_request()).candidates]
    assert [text.partition(":")[0].split()[0] for text in told[:3]] == [
        *("direct", "edge_only", "sketch")
    ]
    assert all("T " in text and "C " in text and "Q " in text for text in told)


def test_deadlines_have_a_floor_and_grow_with_the_work() -> None:
    fast, slow = SpeedProfile(1000.0, 0.001), SpeedProfile(10.0, 1.0)
    assert job_deadline_s(fast, 100, 50, 1, CONFIG) == CONFIG.job_timeout_s
    assert job_deadline_s(slow, 100, 50, 1, CONFIG) > 4 * 50


_INPUTS = st.builds(
    PlanInput,
    question=st.sampled_from(["", QUESTION, "What is 2+2?"]),
    suitability=st.builds(Suitability, st.floats(0, 1), st.just("generic"), st.just(("a reason",))),
    length=st.integers(1, 5000).map(lambda n: LengthForecast(n, 2 * n)),
    prompt_tokens=st.integers(1, 5000),
    max_tokens=st.integers(1, 5000),
    route=st.sampled_from(["auto", "direct", "sketch", "edge_only"]),
    sketch_tokens=st.none() | st.integers(1, 500),
    points=st.none() | st.integers(2, 100),
    obstacles=st.sampled_from([(), ("x",)]),
)
_LOADS = st.builds(
    Load,
    num_edges=st.integers(0, 3),
    edge_slots=st.integers(0, 8),
    num_edge_jobs=st.integers(0, 50),
    edge_context=st.none() | st.integers(16, 8192),
)


@given(_INPUTS, _LOADS)
def test_any_plan_keeps_every_limit(features: PlanInput, load: Load) -> None:
    chosen = plan(features, load, SpeedProfile(), CONFIG)
    assert chosen.reasons
    if load.num_edges == 0 or features.route == "direct":
        assert chosen.route == "direct"
    if chosen.route == "sketch":
        fair = chosen.expansion_tokens / 1.6 - 1  # what a text ends within, but for rounding
        budget = chosen.sketch_tokens + chosen.max_segments * fair
        assert CONFIG.min_segments <= chosen.max_segments <= CONFIG.max_segments
        assert chosen.expansion_tokens >= 1
        assert chosen.sketch_tokens >= 1
        assert budget <= features.max_tokens
        assert load.edge_context is None or chosen.expansion_tokens < load.edge_context
    else:
        assert chosen.sketch_tokens == chosen.max_segments == chosen.expansion_tokens == 0
