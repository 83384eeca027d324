"""Scored prompts: their tokens' log-probabilities are those of one token after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from fake_engine import VOCAB_SIZE, FakeRunner, fake_engine, greedy_after, logits_after
from stepping import finish

from picert import LLM, SamplingParams
from picert.engine.scoring import MAX_CHUNK, Span
from picert.errors import ContextLengthExceeded, InvalidRequest

SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "no_prefix_cache": {"enable_prefix_caching": False},
    "small_steps": {"max_num_batched_tokens": 32},
    "whole_prompts": {"enable_chunked_prefill": False},
}


def mean_after(ids: Sequence[int], span: Span) -> float:
    """The oracle: each token from the logits after all before it."""
    values = []
    for place in range(*span):
        logits = logits_after(ids[:place]).astype(np.float64)
        values.append(logits[ids[place]] - np.log(np.exp(logits).sum()))
    return float(np.mean(values))


def prompt_of(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, VOCAB_SIZE, length).tolist()


@pytest.mark.parametrize("name", SETTINGS)
def test_spans_have_the_mean_of_their_tokens_in_any_company(name: str) -> None:
    engine = fake_engine(**SETTINGS[name])
    shared = prompt_of(0, 30)
    prompts = {f"s{n}": [*shared, *prompt_of(n + 1, 20 + 17 * n)] for n in range(7)}
    spans = {
        name: [(31, 40), (35, len(ids)), (len(ids) - 1, len(ids))] for name, ids in prompts.items()
    }
    for number, (request_id, ids) in enumerate(prompts.items()):
        engine.score(request_id, ids, spans[request_id])
        params = SamplingParams(temperature=0.0, max_tokens=30)
        engine.add(f"w{number}", prompt_of(number, 12), params)
    outputs = finish(engine)
    for request_id, ids in prompts.items():
        [output] = outputs[request_id]
        wanted = [mean_after(ids, span) for span in spans[request_id]]
        assert output.span_logprobs == pytest.approx(wanted, abs=1e-5)
        assert (output.finish_reason, output.token_ids, output.text) == ("stop", (), "")
    for number in range(7):
        written = [token for output in outputs[f"w{number}"] for token in output.token_ids]
        assert written == greedy_after(prompt_of(number, 12), 30)


def test_preempted_one_is_read_again() -> None:
    engine = fake_engine(kv_tokens=160, max_model_len=96, max_num_batched_tokens=16)
    for number in range(6):
        params = SamplingParams(temperature=0.0, max_tokens=30)
        engine.add(f"w{number}", prompt_of(number, 12), params)
    ids = prompt_of(9, 60)
    engine.score("s", ids, [(1, 60)])
    [output] = finish(engine)["s"]
    assert engine.stats.preemptions > 0
    assert output.span_logprobs == pytest.approx([mean_after(ids, (1, 60))], abs=1e-5)


def test_what_comes_before_the_spans_is_taken_from_the_cache_and_they_are_not() -> None:
    engine = fake_engine()
    ids = prompt_of(1, 60)
    for request_id in ("first", "again"):
        engine.score(request_id, ids, [(41, 60)])
        [output] = finish(engine)[request_id]
        assert output.span_logprobs == pytest.approx([mean_after(ids, (41, 60))], abs=1e-5)
    assert output.num_cached_tokens == 40


def test_a_step_reads_no_more_of_a_scored_prompt_than_its_logits_may_take() -> None:
    runner = FakeRunner()
    engine = fake_engine(runner)
    engine.score("s", prompt_of(1, 150), [(1, 150)])
    finish(engine)
    assert runner.num_tokens == [MAX_CHUNK, MAX_CHUNK, 150 - 2 * MAX_CHUNK]


def test_aborted_one_leaves_nothing() -> None:
    engine = fake_engine()
    engine.score("s", prompt_of(1, 100), [(1, 100)])
    engine.step()
    assert engine.abort("s")
    assert finish(engine) == {}
    engine.self_check()


@pytest.mark.parametrize("spans", [[], [(0, 3)], [(4, 4)], [(5, 11)], [(2, 3), (9, 8)]])
def test_span_that_is_none_is_refused_and_nothing_is_queued(spans: list[Span]) -> None:
    engine = fake_engine()
    with pytest.raises(InvalidRequest, match="span"):
        engine.score("s", prompt_of(1, 10), spans)
    assert not engine.has_work
    engine.self_check()


def test_prompt_that_does_not_fit_is_refused_and_nothing_is_kept() -> None:
    engine = fake_engine(max_model_len=32)
    with pytest.raises(ContextLengthExceeded):
        engine.score("s", prompt_of(1, 40), [(1, 40)])
    engine.self_check()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(tmp_path_factory.mktemp("models"), "qwen2", "Q8_0")


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_what_a_model_wrote_is_worth_to_it_what_it_was_when_written(
    runner: str, model: Path
) -> None:
    torch.set_num_threads(1)
    with LLM(str(model), runner=runner, kv_tokens=1024, threads=1) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
        prompt = llm.engine.tokenizer.encode_prompt("How does one keep a garden?")
        [written] = llm.generate([prompt], params)
        ids = [*prompt, *written.token_ids]
        [mean] = llm.score(ids, [(len(prompt), len(ids))])
        assert mean == pytest.approx(written.mean_logprob, abs=1e-3)
        llm.engine.self_check()


def test_both_runners_agree_on_a_text_that_neither_wrote(model: Path) -> None:
    torch.set_num_threads(1)
    found = []
    for runner in ("native", "torch"):
        with LLM(str(model), runner=runner, kv_tokens=1024, threads=1) as llm:
            ids = llm.engine.tokenizer.encode_prompt("Compost is dug into the soil in spring.")
            found.append(llm.score(ids, [(1, len(ids)), (3, 5)]))
    assert found[0] == pytest.approx(found[1], abs=2e-2)
