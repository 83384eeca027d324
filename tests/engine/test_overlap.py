"""Steps that are launched before the tokens of the last are here: nobody's text may show it.

First over a runner whose logits depend on every token that it finds through the block tables, then
over torch on a device that puts work off: there the oracle is the engine with that switched off.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from engine_runs import SETTINGS, engine_of, prompts_of
from fake_engine import (
    END,
    VOCAB_SIZE,
    FakeRunner,
    FakeTokenizer,
    fake_engine,
    greedy_after,
    logits_after,
)
from numpy.typing import NDArray
from stepping import finish, greedy, text, tokens

from picert.engine.batch import StepBatch
from picert.engine.draws import Drawn, Draws, StepOutput
from picert.engine.engine import Engine
from picert.engine.loop import EngineLoop
from picert.engine.runner import PendingStep
from picert.engine.streams import HostStream
from picert.engine.torch_runner import Placement, TorchRunner
from picert.kernels.torch_ops import TorchOps
from picert.messages import SamplingParams
from picert.models.weights import Checkpoint, load_checkpoint

Event = tuple[str, int]  # what was done with the step of that number


class DrawingRunner(FakeRunner):
    """Draws greedy tokens; does nothing of a step before somebody waits for it."""

    can_draw = True

    def __init__(
        self, logits_of: Callable[[Sequence[int]], NDArray[np.float32]] = logits_after
    ) -> None:
        super().__init__(logits_of)
        self.events: list[Event] = []
        self.drawn: list[int] = []  # by the last step that ran
        self._queue: deque[Callable[[], None]] = deque()
        self._num_launched = 0

    def launch(self, batch: StepBatch, draws: Draws | None = None) -> PendingStep:
        assert draws is not None
        number, self._num_launched = self._num_launched, self._num_launched + 1
        self.events.append(("launch", number))
        names = ("token_ids", "positions", "slot_mapping", "query_start", "context_lens")
        names += ("block_tables", "logits_indices")
        kept = replace(batch, **{name: getattr(batch, name).copy() for name in names})
        done: list[StepOutput] = []
        self._queue.append(lambda: done.append(self._output(kept, draws)))

        def fetch() -> StepOutput:
            self.events.append(("fetch", number))
            while not done:
                self._queue.popleft()()
            return done[0]

        return fetch

    def _output(self, batch: StepBatch, draws: Draws) -> StepOutput:
        rows = (-1 - batch.token_ids).tolist()
        known = [self.drawn[row] if row >= 0 else -1 - row for row in rows]
        logits = self.run(replace(batch, token_ids=np.array(known, np.int32)))
        found = logits[: len(draws.states)]
        ids = np.where(np.isfinite(found).all(1), found.argmax(1), -1).astype(np.int32)
        self.drawn = ids.clip(min=0).tolist()
        on_host = np.ascontiguousarray(logits[draws.host_rows(len(logits))])
        return StepOutput(on_host, Drawn(ids, np.zeros(len(ids), np.float32)))


def events_of(engine: Engine) -> list[Event]:
    found: list[Event] = engine._runner.events  # type: ignore[attr-defined]
    return found


def test_a_step_is_launched_before_the_tokens_of_the_last_are_fetched() -> None:
    engine = fake_engine(DrawingRunner())
    engine.add("x", [5, 6], greedy(4))
    assert tokens(finish(engine)["x"]) == greedy_after([5, 6], 4)
    wanted = [("launch", 0), ("launch", 1), ("fetch", 0), ("launch", 2), ("fetch", 1)]
    assert events_of(engine) == [*wanted, ("launch", 3), ("fetch", 2), ("fetch", 3)]


def test_one_step_follows_the_other_where_it_is_switched_off() -> None:
    engine = fake_engine(DrawingRunner(), async_scheduling=False)
    engine.add("x", [5, 6], greedy(3))
    assert tokens(finish(engine)["x"]) == greedy_after([5, 6], 3)
    assert events_of(engine) == [(what, n) for n in range(3) for what in ("launch", "fetch")]


def test_one_step_follows_the_other_where_the_host_samples() -> None:
    runner = DrawingRunner()
    runner.can_draw = False
    engine = fake_engine(runner)
    engine.add("x", [5, 6], greedy(3))
    assert tokens(finish(engine)["x"]) == greedy_after([5, 6], 3)
    assert events_of(engine) == [(what, n) for n in range(3) for what in ("launch", "fetch")]


CROWDED = {
    "plain": {},
    "no_prefix_cache": {"enable_prefix_caching": False},
    "small_chunks": {"max_num_batched_tokens": 32},
    "whole_prompts": {"enable_chunked_prefill": False},
    "preemption": {"kv_tokens": 160, "max_model_len": 96, "max_num_batched_tokens": 32},
}


@pytest.mark.parametrize("name", CROWDED)
def test_tokens_are_the_same_alone_and_among_31_others(name: str) -> None:
    runner = DrawingRunner()
    engine = fake_engine(runner, **CROWDED[name])
    rng = random.Random(32)
    shared = [rng.randrange(1, VOCAB_SIZE) for _ in range(30)]
    prompts = {
        f"r{n}": shared[: rng.choice([0, 8, 30])]
        + [rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randint(1, 50))]
        for n in range(32)
    }
    for request_id, prompt in prompts.items():
        engine.add(request_id, prompt, greedy(min(16, 96 - len(prompt))))
    outputs = finish(engine)
    assert (engine.stats.preemptions > 0) == (name == "preemption")
    assert (engine.stats.cached_tokens > 0) == (name != "no_prefix_cache")
    for request_id, prompt in prompts.items():
        assert tokens(outputs[request_id]) == greedy_after(prompt, min(16, 96 - len(prompt)))


def test_nothing_is_computed_for_a_text_that_ends_by_its_length() -> None:
    num_tokens = []
    for async_scheduling in (True, False):
        runner = DrawingRunner()
        engine = fake_engine(runner, async_scheduling=async_scheduling)
        for n in range(1, 6):
            engine.add(f"r{n}", [n] * n, greedy(n))
        finish(engine)
        num_tokens.append(sum(runner.num_tokens))
    assert num_tokens[0] == num_tokens[1]


def test_a_text_that_stops_is_as_long_as_ever_and_its_neighbour_goes_on() -> None:
    free = FakeTokenizer().decode(greedy_after([9, 9], 12))
    runner = DrawingRunner()
    engine = fake_engine(runner)
    engine.add("x", [9, 9], greedy(12, stop=(free[4:7],)))
    engine.add("y", [8], greedy(20))
    outputs = finish(engine)
    assert text(outputs["x"]) == free[:4]
    assert outputs["x"][-1].finish_reason == "stop"
    assert outputs["x"][-1].num_completion_tokens == 7
    assert tokens(outputs["y"]) == greedy_after([8], 20)
    assert sum(runner.num_tokens) == 3 + 6 + 19 + 1  # the last one for nobody


def ends_after_ten(token_ids: Sequence[int]) -> NDArray[np.float32]:
    logits = logits_after(token_ids)
    logits[END] = 100.0 if len(token_ids) >= 10 else -100.0
    return logits


def test_an_end_token_ends_the_text_though_the_next_step_reads_it() -> None:
    engine = fake_engine(DrawingRunner(ends_after_ten))
    engine.add("x", [1] * 5, greedy(50))
    outputs = finish(engine)["x"]
    assert (outputs[-1].finish_reason, len(text(outputs)), tokens(outputs)[-1]) == ("stop", 5, END)
    assert not engine.has_work


def breaks_for_nine(token_ids: Sequence[int]) -> NDArray[np.float32]:
    return np.full(VOCAB_SIZE, np.nan, np.float32) if 9 in token_ids else logits_after(token_ids)


def test_a_row_without_a_token_ends_only_its_own_text() -> None:
    engine = fake_engine(DrawingRunner(breaks_for_nine))
    engine.add("bad", [9], greedy(5))
    engine.add("good", [1, 2], greedy(5))
    outputs = finish(engine)
    assert [output.finish_reason for output in outputs["bad"]] == ["error"]
    assert tokens(outputs["good"])[:3] == greedy_after([1, 2], 3)


def test_blocks_of_an_aborted_text_serve_another_while_its_step_is_under_way() -> None:
    runner = DrawingRunner()
    engine = fake_engine(runner, kv_tokens=32, max_model_len=32)
    engine.add("a", [3] * 15, greedy(16))
    for _ in range(3):
        engine.step()
    assert events_of(engine)[-2:] == [("launch", 3), ("fetch", 2)]
    assert engine.abort("a")
    engine.self_check()
    engine.add("b", [4] * 30, greedy(2))  # needs every block
    outputs = finish(engine)
    assert list(outputs) == ["b"]
    assert tokens(outputs["b"]) == greedy_after([4] * 30, 2)


def test_what_is_aborted_while_its_step_is_under_way_gets_nothing_more() -> None:
    engine = fake_engine(DrawingRunner())
    engine.add("x", [5, 6], greedy(9))
    engine.score("s", [*range(1, 30)], [(2, 20)])
    engine.begin_step()
    engine.end_step()
    engine.abort("x")
    engine.score("t", [*range(1, 90)], [(2, 80)])
    engine.step()
    engine.abort("t")
    assert engine.has_work  # steps of theirs run
    assert engine.step() == []
    assert not engine.has_work


def test_an_answer_is_found_in_the_prefix_cache_by_who_goes_on_with_it() -> None:
    engine = fake_engine(DrawingRunner())
    engine.add("x", [7] * 6, greedy(12))
    answer = tokens(finish(engine)["x"])
    engine.add("y", [7] * 6 + answer, greedy(2))
    assert finish(engine)["y"][-1].num_cached_tokens == 16  # all full blocks but the last token's


PENALISED = {"presence_penalty": 1.0}


def test_no_step_is_launched_behind_one_of_which_the_host_samples_a_row() -> None:
    engine = fake_engine(DrawingRunner())
    engine.add("host", [5, 6], greedy(3, **PENALISED))
    engine.add("device", [7], greedy(5))
    outputs = finish(engine)
    assert tokens(outputs["device"]) == greedy_after([7], 5)
    in_turns = [(what, n) for n in range(3) for what in ("launch", "fetch")]
    assert events_of(engine)[:6] == in_turns
    assert events_of(engine)[6:] == [("launch", 3), ("launch", 4), ("fetch", 3), ("fetch", 4)]


def test_scored_prompts_are_worth_the_same_beside_texts_that_run_ahead() -> None:
    found = []
    for async_scheduling in (True, False):
        engine = fake_engine(
            DrawingRunner(), async_scheduling=async_scheduling, max_num_batched_tokens=32
        )
        engine.add("x", [5, 6], greedy(20))
        for n in range(3):
            engine.score(f"s{n}", [*range(1, 60), n + 1], [(3 + n, 41), (44, 60)])
        outputs = finish(engine)
        found.append({name: outputs[name][-1].span_logprobs for name in ("s0", "s1", "s2")})
        assert tokens(outputs["x"]) == greedy_after([5, 6], 20)
    assert found[0] == found[1]


def ends_after_forty(token_ids: Sequence[int]) -> NDArray[np.float32]:
    logits = logits_after(token_ids)
    logits[END] = 100.0 if len(token_ids) >= 40 else -100.0
    return logits


@pytest.mark.parametrize("seed", range(6))
def test_any_coming_and_going_leaves_texts_and_tables_right(seed: int) -> None:
    rng = random.Random(seed)
    engine = fake_engine(
        DrawingRunner(ends_after_forty),
        kv_tokens=rng.choice([96, 512]),
        max_model_len=64,
        max_num_batched_tokens=rng.choice([32, 128]),
        max_num_seqs=8,
    )
    plain = fake_engine(FakeRunner(ends_after_forty), max_model_len=64)
    found: dict[str, list[int]] = {}
    aborted = set()
    for _ in range(200):
        chance = rng.random()
        if chance < 0.2:
            name = f"r{len(found)}"
            prompt = [1] * rng.choice([0, 20]) + rng.choices(range(1, 5), k=9)
            params = greedy(rng.randint(1, 30), **(PENALISED if rng.random() < 0.1 else {}))
            engine.add(name, prompt, params)
            plain.add(name, prompt, params)
            found[name] = []
        elif chance < 0.25 and found:
            name = rng.choice([*found])
            if engine.abort(name):
                aborted.add(name)
        else:
            for output in engine.step():
                assert output.request_id not in aborted
                found[output.request_id] += output.token_ids
        engine.self_check()
    for name, outputs in finish(engine).items():
        found[name] += tokens(outputs)
    wanted = {name: tokens(outputs) for name, outputs in finish(plain).items()}
    assert aborted
    for name, ids in found.items():
        assert ids == (wanted[name][: len(ids)] if name in aborted else wanted[name]), name


async def test_streams_of_a_thread_that_runs_ahead_end_like_others() -> None:
    loop = EngineLoop(fake_engine(DrawingRunner(ends_after_ten), kv_tokens=128, max_model_len=64))
    loop.start()

    async def collect(name: str, prompt: list[int]) -> list[int]:
        outputs = [output async for output in loop.stream(name, prompt, greedy(30))]
        return tokens(outputs)

    async with aclosing(loop.stream("gone", [1], greedy(9))) as gone:
        await anext(gone)
    for turn in range(3):  # the loop is idle in between, or has a step under way for nobody
        both = await asyncio.gather(collect(f"x{turn}", [5] * 4), collect(f"y{turn}", [6] * 3))
        assert [len(ids) for ids in both] == [7, 8]
        assert [ids[-1] for ids in both] == [END, END]
    loop.stop(10.0)
    assert loop.num_requests == 0
    loop.engine.self_check()


# --- over torch -----------------------------------------------------------------------------------


class Counted(TorchRunner):
    """Notes how many steps are under way when another is launched."""

    under_way: list[int]
    _num_under_way = 0

    def launch(self, batch: StepBatch, draws: Draws | None = None) -> PendingStep:
        self.under_way.append(self._num_under_way)
        self._num_under_way += 1
        pending = super().launch(batch, draws)

        def fetch() -> StepOutput:
            self._num_under_way -= 1
            return pending()

        return fetch


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("models")
    return load_checkpoint(tiny_models.make_gguf(folder, "llama", "F32"))


def torch_engine(checkpoint: Checkpoint, **fields: object) -> Engine:
    placement = Placement(torch.device("cpu"), torch.float32, has_graphs=True, draws=True)
    runner = Counted(checkpoint, TorchOps(), placement, HostStream())
    runner.under_way = []
    return engine_of(runner, checkpoint, **fields)


def run(
    engine: Engine, requests: Mapping[str, tuple[list[int], SamplingParams]]
) -> dict[str, tuple[list[int], str, str | None]]:
    """Tokens, text and end of each request, run together."""
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    return {
        name: (tokens(outputs), text(outputs), outputs[-1].finish_reason)
        for name, outputs in finish(engine).items()
    }


def crowd(vocab_size: int) -> dict[str, tuple[list[int], SamplingParams]]:
    """Greedy and seeded ones that end by length, token or string, and three of one prompt."""
    prompts = prompts_of(vocab_size, 24)
    rng = random.Random(3)
    requests = {}
    for n, prompt in enumerate(prompts):
        params = SamplingParams(
            temperature=0.0 if n % 2 else 1.0,
            seed=n,
            max_tokens=rng.choice([1, 3, 24, 24]),
            ignore_eos=n % 3 == 0,
            stop_token_ids=tuple(rng.sample(range(vocab_size), 6)) if n % 4 == 1 else (),
            stop=("e",) if n % 4 == 3 else (),
        )
        requests[f"r{n}"] = prompt, params
    for n in range(3):
        requests[f"n{n}"] = prompts[20], SamplingParams(seed=n, max_tokens=20)
    return requests


def special(vocab_size: int) -> dict[str, tuple[list[int], SamplingParams]]:
    """Ones that the host samples, for good or for a while."""
    prompts = prompts_of(vocab_size)
    fields: list[dict[str, object]] = [PENALISED, {"min_tokens": 5}, {"logprobs": 2}]
    return {
        f"s{n}": (prompts[n], SamplingParams(seed=n, max_tokens=7, **more))  # type: ignore[arg-type]
        for n, more in enumerate(fields)
    }


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("has_special", [False, True])
def test_texts_are_those_of_one_step_after_the_other(
    name: str, has_special: bool, checkpoint: Checkpoint
) -> None:
    found = []
    for async_scheduling in (True, False):
        engine = torch_engine(checkpoint, async_scheduling=async_scheduling, **SETTINGS[name])
        requests = crowd(engine.vocab_size)
        requests |= special(engine.vocab_size) if has_special else {}
        found.append(run(engine, requests))
        assert (engine.stats.preemptions > 0) == ("preemption" in name)
        under_way = engine._runner.under_way  # type: ignore[attr-defined]
        assert max(under_way) == (1 if async_scheduling else 0)
        if async_scheduling and not has_special and "preemption" not in name:
            assert under_way.count(0) == 1  # the first: from then on the device always has work
    assert {end for _, _, end in found[0].values()} == {"stop", "length"}
    assert found[0] == found[1]
