"""The engine over a runner whose logits depend on every token it finds through the block tables."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from fake_engine import (
    END,
    VOCAB_SIZE,
    Clock,
    FakeRunner,
    FakeTokenizer,
    fake_engine,
    greedy_after,
    logits_after,
)
from numpy.typing import NDArray
from stepping import finish, greedy, text, tokens

from picert.engine.engine import Engine
from picert.engine.sequence import Output
from picert.errors import (
    ConfigError,
    ContextLengthExceeded,
    InvalidRequest,
    QueueFull,
    Unavailable,
)
from picert.messages import GREEDY, SamplingParams

SETTINGS = {
    "plain": {},
    "no_prefix_cache": {"enable_prefix_caching": False},
    "small_chunks": {"max_num_batched_tokens": 32},
    "whole_prompts": {"enable_chunked_prefill": False},
    "preemption": {"kv_tokens": 160, "max_model_len": 96},
    "preemption_no_cache": {
        "kv_tokens": 160,
        "max_model_len": 96,
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 32,
    },
    "one_token_blocks_of_256": {"block_size": 256, "kv_tokens": 1024},
}


def crowd(count: int) -> dict[str, list[int]]:
    rng = random.Random(count)
    shared = [rng.randrange(1, VOCAB_SIZE) for _ in range(30)]
    lengths = [rng.randint(1, 50) for _ in range(count)]
    return {
        f"r{i}": shared[: rng.choice([0, 8, 30])]
        + [rng.randrange(1, VOCAB_SIZE) for _ in range(length)]
        for i, length in enumerate(lengths)
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_greedy_tokens_are_the_same_alone_and_among_31_others(name: str) -> None:
    engine = fake_engine(**SETTINGS[name])
    prompts = crowd(32)
    for request_id, prompt in prompts.items():
        engine.add(request_id, prompt, greedy(min(16, 96 - len(prompt))))
    outputs = finish(engine)
    assert (engine.stats.preemptions > 0) == name.startswith("preemption")
    assert (engine.stats.cached_tokens > 0) == ("cache" not in name and "256" not in name)
    for request_id, prompt in prompts.items():
        wanted = greedy_after(prompt, min(16, 96 - len(prompt)))
        assert tokens(outputs[request_id]) == wanted, request_id


@pytest.mark.parametrize("name", ["plain", "preemption"])
def test_seeded_text_does_not_depend_on_neighbours_or_preemption(name: str) -> None:
    params = SamplingParams(seed=3, top_p=0.9, max_tokens=20)
    alone = fake_engine()
    alone.add("x", [5] * 20, params)
    wanted = text(finish(alone)["x"])
    engine = fake_engine(**SETTINGS[name])
    for request_id, prompt in crowd(31).items():
        engine.add(request_id, prompt, SamplingParams(seed=int(request_id[1:]), max_tokens=9))
    engine.add("x", [5] * 20, params)
    assert text(finish(engine)["x"]) == wanted


def test_engines_of_one_seed_draw_alike_and_of_another_otherwise() -> None:
    texts = []
    for seed in (1, 1, 2):
        engine = fake_engine(seed=seed)
        engine.add("x", "hello", SamplingParams(max_tokens=20))
        texts.append(text(finish(engine)["x"]))
    assert texts[0] == texts[1] != texts[2]


def test_two_engines_in_one_process_do_not_meet() -> None:
    first, second = fake_engine(), fake_engine()
    first.add("x", "first", greedy(5))
    second.add("x", "second", greedy(5))
    outputs = [*first.step(), *second.step(), *finish(first)["x"], *finish(second)["x"]]
    assert len(outputs) == 10
    assert not first.has_work
    assert not second.has_work


def test_text_and_counts_of_an_answer() -> None:
    engine = fake_engine()
    engine.add("x", "hello", greedy(6, logprobs=2))
    outputs = finish(engine)["x"]
    assert text(outputs) == FakeTokenizer().decode(tokens(outputs))
    assert [output.finish_reason for output in outputs] == [None] * 5 + ["length"]
    assert [output.num_completion_tokens for output in outputs] == [1, 2, 3, 4, 5, 6]
    assert outputs[-1].num_prompt_tokens == 5
    chosen = [token for output in outputs for token in output.logprobs or ()]
    assert [token.token_id for token in chosen] == tokens(outputs)
    assert [token.top[0][0] for token in chosen] == tokens(outputs)
    assert outputs[-1].sum_logprob == pytest.approx(sum(token.logprob for token in chosen))


def test_second_request_finds_the_prompt_of_the_first_in_the_cache() -> None:
    engine = fake_engine(block_size=4)
    engine.add("a", [7] * 18, greedy(2))
    finish(engine)
    engine.add("b", [7] * 18, greedy(2))
    last = finish(engine)["b"][-1]
    assert last.num_cached_tokens == 16


def test_stop_string_of_the_model_ends_the_text_before_it() -> None:
    free = FakeTokenizer().decode(greedy_after([9, 9], 12))
    engine = fake_engine()
    engine.add("x", [9, 9], greedy(12, stop=(free[4:7],)))
    outputs = finish(engine)["x"]
    assert text(outputs) == free[:4]
    assert outputs[-1].finish_reason == "stop"
    assert outputs[-1].num_completion_tokens == 7


def ends_after_ten(token_ids: Sequence[int]) -> NDArray[np.float32]:
    logits = logits_after(token_ids)
    logits[END] = 100.0 if len(token_ids) >= 10 else -100.0
    return logits


def test_end_token_ends_the_text() -> None:
    engine = fake_engine(FakeRunner(ends_after_ten))
    engine.add("x", [1] * 5, greedy(50))
    outputs = finish(engine)["x"]
    assert outputs[-1].finish_reason == "stop"
    assert tokens(outputs)[-1] == END
    assert len(text(outputs)) == 5


def test_ignored_end_token_does_not_end_it() -> None:
    engine = fake_engine(FakeRunner(ends_after_ten))
    engine.add("x", [1] * 5, greedy(20, ignore_eos=True))
    assert finish(engine)["x"][-1].num_completion_tokens == 20


def test_min_tokens_puts_the_end_off() -> None:
    engine = fake_engine(FakeRunner(ends_after_ten))
    engine.add("x", [1] * 5, greedy(20, min_tokens=8))
    assert finish(engine)["x"][-1].num_completion_tokens == 9


def test_generation_ends_at_the_end_of_the_context() -> None:
    engine = fake_engine(max_model_len=16)
    engine.add("x", [1] * 12, greedy(100))
    last = finish(engine)["x"][-1]
    assert (last.num_completion_tokens, last.finish_reason) == (4, "length")


def test_budget_is_shared_by_decodes_and_chunks() -> None:
    runner = FakeRunner()
    engine = fake_engine(runner, max_num_batched_tokens=32)
    engine.add("short", [1] * 4, greedy(10))
    engine.step()
    engine.add("long", [2] * 100, greedy(2))
    finish(engine)
    assert runner.num_tokens[:5] == [4, 32, 32, 32, 8]


def test_abort_frees_the_blocks_and_leaves_the_neighbour_alone() -> None:
    engine = fake_engine()
    engine.add("a", "first", greedy(20))
    engine.add("b", "second", greedy(20))
    before = engine.step()
    assert engine.abort("a")
    engine.self_check()
    assert not engine.abort("a")
    outputs = finish(engine)
    assert list(outputs) == ["b"]
    kept = [output for output in before if output.request_id == "b"] + outputs["b"]
    assert tokens(kept) == greedy_after(FakeTokenizer().encode_prompt("second"), 20)


def test_abort_of_a_waiting_request_forgets_it() -> None:
    engine = fake_engine(max_num_seqs=1)
    engine.add("a", "first", greedy(3))
    engine.add("b", "second", greedy(3))
    engine.step()
    assert engine.abort("b")
    assert list(finish(engine)) == ["a"]


def test_a_thousand_requests_leave_every_table_empty() -> None:
    engine = fake_engine(max_num_queued_reqs=1000, kv_tokens=256, max_model_len=64)
    rng = random.Random(0)
    for i in range(1000):
        engine.add(f"r{i}", [rng.randrange(1, 9) for _ in range(rng.randint(1, 20))], greedy(4))
        if rng.random() < 0.1:
            engine.abort(f"r{rng.randint(0, i)}")
        if i % 20 == 0:
            engine.step()
    while engine.has_work:
        engine.step()
    engine.self_check()
    assert engine.stats.num_running == engine.stats.num_waiting == 0
    assert engine.stats.kv_usage == 0.0
    assert sum(engine.stats.finished.values()) == 1000


def breaks_for_nine(token_ids: Sequence[int]) -> NDArray[np.float32]:
    return np.full(VOCAB_SIZE, math.nan, np.float32) if 9 in token_ids else logits_after(token_ids)


def test_logits_that_are_not_numbers_end_only_their_own_request() -> None:
    engine = fake_engine(FakeRunner(breaks_for_nine))
    engine.add("good", [1, 2], greedy(3))
    engine.add("bad", [9], greedy(3))
    outputs = finish(engine)
    assert [output.finish_reason for output in outputs["bad"]] == ["error"]
    assert outputs["bad"][0].token_ids == ()
    assert outputs["good"][-1].finish_reason == "length"


def test_step_in_halves_is_a_step() -> None:
    runner = FakeRunner()
    engine = fake_engine(runner)
    engine.add("x", [5, 6], greedy(2))
    engine.begin_step()
    assert runner.num_tokens == []  # launched, and nobody has waited for it
    (output,) = engine.end_step()
    assert list(output.token_ids) == greedy_after([5, 6], 1)
    engine.self_check()
    assert tokens(finish(engine)["x"]) == greedy_after([5, 6], 2)[1:]


class Broken(FakeRunner):
    def run(self, batch: object) -> NDArray[np.float32]:
        raise RuntimeError("out of order")


def test_engine_refuses_to_go_on_after_a_failed_step() -> None:
    engine = fake_engine(Broken())
    engine.add("x", "hello", GREEDY)
    with pytest.raises(RuntimeError, match="out of order"):
        engine.step()
    with pytest.raises(Unavailable, match="load it again"):
        engine.step()
    with pytest.raises(Unavailable, match="load it again"):
        engine.add("y", "hello", GREEDY)


def test_prompt_longer_than_the_context_names_both_numbers() -> None:
    with pytest.raises(ContextLengthExceeded, match="has 40 tokens, the context holds 32 "):
        fake_engine(max_model_len=32).add("x", [1] * 40, GREEDY)


def test_more_requests_than_the_bound_are_refused() -> None:
    engine = fake_engine(max_num_seqs=2, max_num_queued_reqs=3)
    for i in range(5):
        engine.add(f"r{i}", "hi", greedy(2))
    with pytest.raises(QueueFull, match="the limit is 5"):
        engine.add("r5", "hi", greedy(2))
    finish(engine)
    engine.add("r5", "hi", greedy(2))
    assert len(finish(engine)["r5"]) == 2


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ("", {}, "no tokens"),
        ([], {}, "no tokens"),
        ([1, VOCAB_SIZE], {}, "prompt holds token 96, the model knows 0 to 95"),
        ([-1], {}, "prompt holds token -1"),
        ([1], {"logit_bias": {500: 1.0}}, "logit_bias holds token 500"),
        ([1], {"stop_token_ids": (-3,)}, "stop_token_ids holds token -3"),
    ],
)
def test_bad_requests_are_refused(
    prompt: str | list[int], params: dict[str, object], words: str
) -> None:
    engine = fake_engine()
    with pytest.raises(InvalidRequest, match=words):
        engine.add("x", prompt, SamplingParams(**params))  # type: ignore[arg-type]
    assert not engine.has_work


def test_request_id_in_use_is_refused() -> None:
    engine = fake_engine()
    engine.add("x", "hi", GREEDY)
    with pytest.raises(InvalidRequest, match="'x' is in use"):
        engine.add("x", "hi", GREEDY)


def test_cache_smaller_than_the_asked_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="the K/V cache holds 64 tokens"):
        fake_engine(kv_tokens=64, max_model_len=128)


def test_padded_vocabulary_is_never_drawn() -> None:
    runner = FakeRunner(lambda ids: np.append(logits_after(ids)[:-1], np.float32(99.0)))
    engine = fake_engine(runner)
    engine.tokenizer.vocab_size = VOCAB_SIZE - 1
    narrow = Engine(engine.config, runner, engine.tokenizer, Clock())
    narrow.add("x", "hi", greedy(5))
    assert VOCAB_SIZE - 1 not in tokens(finish(narrow)["x"])


def test_timings_follow_the_clock() -> None:
    clock = Clock()
    engine = fake_engine(clock=clock)
    engine.add("x", "hi", greedy(3))
    for _ in range(3):
        clock.now += 2.0
        engine.step()
    stats = engine.stats
    assert (stats.first_token.count, stats.first_token.sum) == (1, 2.0)
    assert (stats.inter_token.count, stats.inter_token.mean) == (2, 2.0)
    assert (stats.request.count, stats.request.sum) == (1, 6.0)
    assert (stats.steps, stats.prompt_tokens, stats.completion_tokens) == (3, 2, 3)
    assert stats.finished == {"length": 1}


def test_close_drops_requests_and_the_runner() -> None:
    runner = FakeRunner()
    engine = fake_engine(runner)
    engine.add("x", "hi", GREEDY)
    engine.close()
    assert runner.is_closed
    with pytest.raises(Unavailable):
        engine.step()


def test_queue_time_ends_when_a_request_gets_its_place_in_a_step() -> None:
    clock = Clock()
    engine = fake_engine(clock=clock, max_num_seqs=1)
    engine.add("first", [5, 6, 7], greedy(2))
    clock.now += 1.0
    engine.add("second", [8, 9], greedy(2))
    outputs: dict[str, list[Output]] = defaultdict(list)
    while engine.has_work:
        clock.now += 0.5
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert {output.queue_s for output in outputs["first"]} == {1.5}
    assert {output.queue_s for output in outputs["second"]} == {1.5}
