"""Tokens that a device draws: which rows, from which numbers, and that the texts are the same.

`TorchOps` stand for the device's kernel, which tests/kernels/test_sample.py holds against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gpu_kernels  # noqa: F401 - skips where triton is not installed
import numpy as np
import pytest
import tiny_models
import torch
from engine_runs import SETTINGS, Tokens, engine_of, prompts_of
from numpy.typing import NDArray
from torch import Tensor

from picert.engine.batch import StepBatch
from picert.engine.draws import NUM_COLUMNS, Draws, StepOutput, draws_of
from picert.engine.engine import Engine
from picert.engine.fetch import Fetch
from picert.engine.runner import PendingStep
from picert.engine.sampler import SamplingState, sampling_state
from picert.engine.streams import HostStream
from picert.engine.torch_runner import Placement, TorchRunner
from picert.kernels.ops import Ops, SamplingRows
from picert.kernels.torch_ops import TorchOps
from picert.kernels.triton_ops import TritonOps
from picert.messages import SamplingParams
from picert.models.weights import Checkpoint, load_checkpoint

CPU = torch.device("cpu")
SHORT = {"max_tokens": 8, "ignore_eos": True}
GREEDY = SamplingParams(temperature=0.0, **SHORT)  # type: ignore[arg-type]
NOT_PLAIN = {
    "repetition_penalty": {"repetition_penalty": 1.3},
    "presence_penalty": {"presence_penalty": 1.0},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "logit_bias": {"logit_bias": {5: 2.0}},
    "logprobs": {"logprobs": 2},
    "min_tokens": {"min_tokens": 1},
}


class EvenTokens:
    """A grammar of tokens with even ids."""

    def allowed(self, generated_ids: Sequence[int]) -> NDArray[np.bool_] | None:
        return np.arange(320) % 2 == 0


class NarrowRunner(TorchRunner):
    """Notes how many rows of logits came to the host in each step."""

    num_rows: list[int]

    def launch(self, batch: StepBatch, draws: Draws | None = None) -> PendingStep:
        pending = super().launch(batch, draws)

        def noted() -> StepOutput:
            output = pending()
            self.num_rows.append(len(output.logits))
            return output

        return noted


class BrokenFirstRow(TorchOps):
    """Draws from NaN where one row is 0."""

    def sample(self, logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor]:
        logits[0, 7] = float("nan")
        return super().sample(logits, rows)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("models")
    return load_checkpoint(tiny_models.make_gguf(folder, "llama", "F32"))


def engine_with(
    checkpoint: Checkpoint, *, draws: bool, ops: Ops | None = None, **fields: object
) -> Engine:
    placement = Placement(CPU, torch.float32, has_graphs=True, draws=draws)
    runner = NarrowRunner(checkpoint, ops or TorchOps(), placement, HostStream())
    runner.num_rows = []
    return engine_of(runner, checkpoint, **fields)


def num_host_rows(engine: Engine) -> list[int]:
    found: list[int] = engine._runner.num_rows  # type: ignore[attr-defined]
    return found


def run(
    engine: Engine, requests: Mapping[int, SamplingParams]
) -> dict[int, tuple[Tokens, float, str | None]]:
    """Tokens, sum of log-probabilities and end of each request by its number, run together."""
    prompts = prompts_of(engine.tokenizer.vocab_size)
    for i, params in requests.items():
        engine.add(str(i), prompts[i], params)
    texts: dict[int, tuple[Tokens, float, str | None]] = {}
    while engine.has_work:
        for output in engine.step():
            i = int(output.request_id)
            tokens = texts.get(i, ((), 0.0, None))[0] + output.token_ids
            texts[i] = tokens, output.sum_logprob, output.finish_reason
        engine.self_check()
    return texts


def assert_same(
    found: Mapping[int, tuple[Tokens, float, str | None]],
    wanted: Mapping[int, tuple[Tokens, float, str | None]],
) -> None:
    assert {i: (text[0], text[2]) for i, text in found.items()} == {
        i: (text[0], text[2]) for i, text in wanted.items()
    }
    for i, (_, logprob, _) in wanted.items():
        assert found[i][1] == pytest.approx(logprob, abs=1e-3)


def seeded(i: int, max_tokens: int = 8) -> SamplingParams:
    temperature, top_p = (0.7, 0.9) if i % 2 else (1.0, 1.0)
    fields = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    return SamplingParams(seed=i, top_k=40, ignore_eos=True, **fields)  # type: ignore[arg-type]


def state_of(params: SamplingParams, seed: int = 0) -> SamplingState:
    return sampling_state(params, [], frozenset(), seed)


@pytest.mark.parametrize("name", ["plain", "preemption_chunks_no_cache"])
def test_greedy_texts_and_their_log_probabilities_are_those_of_the_host(
    name: str, checkpoint: Checkpoint
) -> None:
    requests = dict.fromkeys(range(12, 24), GREEDY)
    engine = engine_with(checkpoint, draws=True, **SETTINGS[name])
    wanted = run(engine_with(checkpoint, draws=False, **SETTINGS[name]), requests)
    assert_same(run(engine, requests), wanted)
    assert max(num_host_rows(engine)) == 0


def test_the_interpreted_kernel_gives_the_texts_of_torch_ops(checkpoint: Checkpoint) -> None:
    requests = {4: GREEDY, 5: seeded(5), 6: seeded(6)}
    wanted = run(engine_with(checkpoint, draws=True), requests)
    engine = engine_with(checkpoint, draws=True, ops=TritonOps())
    assert_same(run(engine, requests), wanted)
    assert max(num_host_rows(engine)) == 0


@pytest.mark.parametrize("name", ["plain", "preemption_chunks_no_cache"])
def test_a_seeded_text_does_not_depend_on_neighbours_or_preemption(
    name: str, checkpoint: Checkpoint
) -> None:
    requests = {i: seeded(i, max_tokens=24) for i in range(12, 24)}
    engine = engine_with(checkpoint, draws=True, **SETTINGS[name])
    together = run(engine, requests)
    assert (engine.stats.preemptions > 0) == ("preemption" in name)
    for i in (12, 17, 23):
        alone = run(engine_with(checkpoint, draws=True), {i: requests[i]})
        assert_same(alone, {i: together[i]})


@pytest.mark.parametrize("fields", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_a_row_that_only_the_host_can_serve_comes_to_it_alone(
    fields: dict[str, object], checkpoint: Checkpoint
) -> None:
    special = SamplingParams(temperature=0.0, **SHORT, **fields)  # type: ignore[arg-type]
    requests = {3: GREEDY, 4: special, 5: GREEDY}
    engine = engine_with(checkpoint, draws=True)
    assert_same(run(engine, requests), run(engine_with(checkpoint, draws=False), requests))
    once = "min_tokens" in fields  # then it is a row like others
    assert num_host_rows(engine) == ([1] + [0] * 7 if once else [1] * 8)


def test_a_masked_row_comes_to_the_host_and_its_neighbours_do_not(checkpoint: Checkpoint) -> None:
    engine = engine_with(checkpoint, draws=True)
    engine.add("masked", [5, 6, 7], GREEDY, EvenTokens())
    engine.add("plain", [5, 6, 7], GREEDY)
    tokens: dict[str, Tokens] = {"masked": (), "plain": ()}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
    assert all(token % 2 == 0 for token in tokens["masked"])
    assert any(token % 2 for token in tokens["plain"])
    assert num_host_rows(engine) == [1] * 8


def test_a_row_that_is_not_finite_ends_in_error_and_its_neighbour_goes_on(
    checkpoint: Checkpoint,
) -> None:
    engine = engine_with(checkpoint, draws=True, ops=BrokenFirstRow())
    engine.add("first", [5, 6, 7], GREEDY)
    engine.add("second", [8, 9], GREEDY)
    ends = {output.request_id: output.finish_reason for output in engine.step()}
    assert ends == {"first": "error", "second": None}


def test_scored_prompts_are_read_beside_drawn_rows(checkpoint: Checkpoint) -> None:
    means = []
    for draws in (False, True):
        engine = engine_with(checkpoint, draws=draws)
        engine.add("x", [5, 6, 7], GREEDY)
        engine.score("scored", list(range(3, 20)), [(2, 9), (11, 17)])
        outputs = {output.request_id: output for output in engine.step()}
        means.append((*outputs["x"].token_ids, *outputs["scored"].span_logprobs))
    assert means[1] == pytest.approx(means[0])


def test_tokens_beyond_the_tokenizers_are_never_drawn() -> None:
    logits = torch.zeros(2, 10)
    logits[:, 8] = 50.0
    states = [state_of(GREEDY), state_of(SamplingParams(), seed=3)]
    fetch = Fetch(TorchOps(), HostStream(), CPU, vocab_size=10, max_draws=2)
    output = fetch.start(lambda: logits, 2, draws_of(states, 6, can_draw=True))()
    assert output.drawn is not None
    assert (output.drawn.token_ids < 6).all()
    np.testing.assert_allclose(output.drawn.logprobs, -np.log(6), rtol=1e-6)


def test_what_was_drawn_last_stays_on_the_device_for_the_next_step() -> None:
    logits = torch.zeros(3, 8)
    logits[0, 5], logits[1, 2], logits[2] = 9.0, float("nan"), torch.arange(8.0)
    stream = HostStream()
    fetch = Fetch(TorchOps(), stream, CPU, vocab_size=8, max_draws=3)
    pending = fetch.start(lambda: logits, 3, draws_of([state_of(GREEDY)] * 3, 8, can_draw=True))
    known = []
    stream.submit(lambda: known.append(fetch.known(torch.tensor([-3, 4, -1, -2, 6]))))
    drawn = pending().drawn
    assert drawn is not None
    assert drawn.token_ids.tolist() == [5, -1, 7]
    stream.mark().synchronize()
    assert known[0].tolist() == [7, 4, 5, 0, 6]  # where nothing could be drawn, some token


def test_only_the_logits_that_were_not_drawn_from_are_copied_and_those_behind() -> None:
    logits = torch.arange(40.0).view(5, 8)
    penalised = SamplingParams(presence_penalty=1.0)
    states = [state_of(params) for params in (GREEDY, penalised, GREEDY)]
    fetch = Fetch(TorchOps(), HostStream(), CPU, vocab_size=8, max_draws=3)
    output = fetch.start(logits.clone, 5, draws_of(states, 8, can_draw=True))()
    assert output.logits.tolist() == logits[[1, 3, 4]].tolist()


def test_numbers_are_the_draws_of_the_seed_by_how_many_tokens_there_are() -> None:
    state = state_of(SamplingParams(), seed=11)
    numbers = []
    for _ in range(5):
        columns = np.zeros((NUM_COLUMNS, 1), np.int32)
        draws_of([state], 8, can_draw=True).write(columns)
        numbers.append(float(columns.view(np.float32)[4, 0]))
        state.core.record(2)
    wanted = np.random.Generator(np.random.Philox(key=11)).random(5)
    np.testing.assert_allclose(numbers, wanted, rtol=1e-6)


def test_parameters_that_fp32_cannot_hold_stay_in_range() -> None:
    params = SamplingParams(top_p=1e-300, top_k=2**40)
    columns = np.zeros((NUM_COLUMNS, 1), np.int32)
    draws_of([state_of(params)], 8, can_draw=True).write(columns)
    assert columns[1, 0] == 8
    assert columns.view(np.float32)[2, 0] > 0
