"""Every plan's last reason has a label of its own, in every mode."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.config import Mode, PolicyConfig
from picert.messages import ChatMessage, Grammar, Request, Route, SamplingParams
from picert.pice.features import read_request
from picert.pice.length import LengthForecast, LengthPredictor
from picert.pice.policy import Load, PlanInput, plan
from picert.pice.profile import SpeedProfile
from picert.pice.reasons import WHYS, Why, why
from picert.pice.router import Suitability

QUESTION = "What are the most effective ways to deal with stress?"
ASKED = (ChatMessage("user", QUESTION),)
IDLE = Load(num_edges=2, edge_slots=8, edge_context=2048)


def label(
    request: Request, load: Load = IDLE, mode: Mode = "pice", speed: SpeedProfile | None = None
) -> Why:
    features = read_request(request, 40, LengthPredictor())
    return why(plan(features, load, speed or SpeedProfile(), PolicyConfig(mode=mode)).reasons[-1])


def asking(text: str = QUESTION, **fields: object) -> Request:
    return Request(request_id="r", messages=(ChatMessage("user", text),), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_",
    [
        Request(request_id="r", prompt="Once"),
        asking(num_choices=2),
        asking(tools=({"type": "function"},)),
        asking(grammar=Grammar("json_schema", "{}", "response_format")),
        asking(sampling=SamplingParams(logprobs=1)),
        asking(opening="Well,"),
        asking(add_generation_prompt=False),
    ],
)
def test_what_only_the_cloud_can_answer_says_so(request_: Request) -> None:
    assert {label(request_, mode=mode) for mode in get_args(Mode)} == {"only_cloud"}


@pytest.mark.parametrize(
    "request_",
    [
        Request(request_id="r", messages=(*ASKED, ChatMessage("assistant", "Rest."), *ASKED)),
        Request(request_id="r", messages=(ChatMessage("system", "Rhyme."), *ASKED)),
        asking(sampling=SamplingParams(stop=("END",))),
        asking(sampling=SamplingParams(logit_bias={1: 1.0})),
        asking(sampling=SamplingParams(min_tokens=3)),
    ],
)
def test_what_several_writers_would_lose_says_so(request_: Request) -> None:
    assert {label(request_, mode=mode) for mode in ("pice", "static", "sot")} == {"indivisible"}


@pytest.mark.parametrize(
    ("mode", "load", "request_", "expected"),
    [
        ("pice", IDLE, asking(), "cheapest"),
        ("pice", Load(num_edges=0), asking(), "no_edge"),
        ("pice", replace(IDLE, edge_context=64), asking(), "context"),
        ("pice", IDLE, asking("List 30 ways to reuse a jar."), "too_many_points"),
        ("pice", IDLE, asking("Name the capital of Peru in one word."), "short"),
        ("pice", IDLE, asking("What is 17 * 23?"), "quality"),
        ("pice", IDLE, asking("Write a poem about the sea."), "cost"),
        ("pice", replace(IDLE, num_edge_jobs=5000), asking(), "time"),
        ("pice", replace(IDLE, price=30.0), asking("Who wrote Hamlet?"), "cheapest"),
        (
            "pice",
            IDLE,
            Request(request_id="r", messages=(ChatMessage("user", " "),)),
            "no_question",
        ),
        ("direct", IDLE, asking(), "mode"),
        ("edge_only", IDLE, asking(), "mode"),
        ("edge_only", Load(num_edges=0), asking(), "no_edge"),
        ("router", IDLE, asking(), "suitable"),
        ("router", IDLE, asking("Write a poem about the sea."), "unsuitable"),
        ("sot", IDLE, asking(), "suitable"),
        ("static", IDLE, asking(), "suitable"),
        ("static", replace(IDLE, num_edge_jobs=5000), asking(), "edges_busy"),
        ("static", IDLE, asking("Write a poem about the sea."), "unsuitable"),
    ],
)
def test_each_decision_has_its_label(
    mode: Mode, load: Load, request_: Request, expected: Why
) -> None:
    assert label(request_, load, mode) == expected


_INPUTS = st.builds(
    PlanInput,
    question=st.sampled_from(["", QUESTION, "What is 2+2?"]),
    suitability=st.builds(Suitability, st.floats(0, 1), st.just("generic"), st.just(("a",))),
    length=st.integers(1, 5000).map(lambda n: LengthForecast(n, 2 * n)),
    prompt_tokens=st.integers(1, 5000),
    max_tokens=st.integers(1, 5000),
    route=st.sampled_from(get_args(Route)),
    sketch_tokens=st.none() | st.integers(1, 500),
    points=st.none() | st.integers(2, 100),
)
_LOADS = st.builds(
    Load,
    num_edges=st.integers(0, 3),
    edge_slots=st.integers(0, 8),
    num_edge_jobs=st.integers(0, 50),
    edge_context=st.none() | st.integers(16, 8192),
    price=st.floats(0, 50),
    edge_price=st.floats(0, 50),
)


@given(_INPUTS, _LOADS, st.sampled_from(get_args(Mode)))
def test_no_decision_is_without_a_label(features: PlanInput, load: Load, mode: Mode) -> None:
    chosen = plan(features, load, SpeedProfile(), PolicyConfig(mode=mode))
    label = why(chosen.reasons[-1])
    assert label in WHYS
    assert label != "other"
