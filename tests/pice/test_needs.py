import msgspec
import pytest

from picert.messages import AnswerJob, ChatMessage, ExpandJob, Expansion, SamplingParams, Segment
from picert.pice.needs import NeedsEstimator

JOB = ExpandJob(
    request_id="r",
    attempt=0,
    question="q" * 40,
    outline=("o" * 40,),
    segments=(Segment(0, "o" * 40),),
    max_tokens=100,
    deadline_s=1.0,
)


def expansion(prompt: int, cached: int, completion: int) -> Expansion:
    return Expansion(
        request_id="r",
        index=0,
        attempt=0,
        text="t",
        finish_reason="stop",
        model="m",
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        mean_logprob=-1.0,
        seconds=1.0,
    )


def test_needs_approach_what_jobs_took() -> None:
    estimator = NeedsEstimator()
    for _ in range(100):
        estimator.observe(JOB, expansion(prompt=300, cached=270, completion=25))
    needs = estimator.of(JOB)
    assert (needs.prompt_tokens, needs.tail_tokens, needs.tokens) == (300, 30, 25)
    assert needs.kv_tokens == 400


@pytest.mark.parametrize(
    ("prompt", "cached", "completion"), [(0, 0, 10), (300, 300, 10), (300, -1, 10), (-5, 0, 10)]
)
def test_what_cannot_be_true_teaches_nothing(prompt: int, cached: int, completion: int) -> None:
    estimator = NeedsEstimator()
    before = estimator.of(JOB)
    estimator.observe(JOB, expansion(prompt, cached, completion))
    assert estimator.of(JOB) == before


def test_more_tokens_than_were_allowed_do_not_count() -> None:
    estimator = NeedsEstimator()
    before = estimator.of(JOB).tokens
    estimator.observe(JOB, expansion(300, 0, 10**9))
    assert estimator.of(JOB).tokens == before


def test_a_whole_answer_shares_nothing() -> None:
    job = AnswerJob(
        request_id="r",
        attempt=0,
        messages=(ChatMessage("user", "x" * 400),),
        sampling=SamplingParams(max_tokens=200),
        deadline_s=1.0,
    )
    needs = NeedsEstimator().of(job)
    assert needs.prompt_tokens == needs.tail_tokens == 100
    assert (needs.tokens, needs.kv_tokens) == (120, 300)


def test_length_of_expansions_is_learned_whatever_room_they_had() -> None:
    estimator = NeedsEstimator()
    for max_tokens in (64, 96) * 40:
        job = msgspec.structs.replace(JOB, max_tokens=max_tokens)
        estimator.observe(job, expansion(300, 270, 30))
    assert estimator.expansion_tokens == pytest.approx(30, abs=0.5)
    estimator.observe(JOB, expansion(300, 270, 10**9))
    assert estimator.expansion_tokens == pytest.approx(30, abs=0.5)
