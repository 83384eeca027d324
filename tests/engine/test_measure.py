"""What is measured of an engine whose runner takes a known time."""

import pytest
from fake_engine import Clock, FakeRunner, fake_engine
from numpy.typing import NDArray

from picert.engine.batch import StepBatch
from picert.engine.engine import Engine
from picert.engine.measure import Sizes, measure

SIZES = Sizes(prompt_tokens=(8, 32), prompts=(1, 2), batches=(1, 2, 4), contexts=(16, 40))


class TimedRunner(FakeRunner):
    """A step takes 1 s, and 10 ms for each of its tokens."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def run(self, batch: StepBatch) -> NDArray:
        self._clock.now += 1.0 + 0.01 * batch.num_tokens
        return super().run(batch)


def timed_engine(**fields: object) -> tuple[Engine, Clock]:
    clock = Clock()
    return fake_engine(TimedRunner(clock), clock, **fields), clock


def test_prompts_and_steps_take_what_the_runner_takes() -> None:
    engine, clock = timed_engine()
    speeds = measure(engine, SIZES, clock)
    assert [point[:2] for point in speeds.prefill] == [(8, 1), (8, 2), (32, 1), (32, 2)]
    for tokens, count, seconds in speeds.prefill:
        assert seconds == pytest.approx(1.0 + 0.01 * tokens * count)
    assert sorted(point[:2] for point in speeds.decode) == [
        (batch, context) for batch in (1, 2, 4) for context in (16, 40)
    ]
    for batch, _, seconds in speeds.decode:
        assert seconds == pytest.approx(1.0 + 0.01 * batch)


def test_long_prompts_in_chunks_do_not_disturb_the_steps() -> None:
    engine, clock = timed_engine(max_num_batched_tokens=16, max_num_seqs=4)
    for batch, _, seconds in measure(engine, SIZES, clock).decode:
        assert seconds == pytest.approx(1.0 + 0.01 * batch)


def test_the_engine_is_left_as_it_was() -> None:
    engine, clock = timed_engine()
    measure(engine, SIZES, clock)
    assert not engine.has_work
    engine.self_check()


@pytest.mark.parametrize(
    "fields", [{"max_num_seqs": 2}, {"max_model_len": 24}, {"kv_tokens": 64}, {"kv_tokens": 24}]
)
def test_sizes_that_do_not_fit_are_left_out_and_the_grid_stays_full(
    fields: dict[str, object],
) -> None:
    engine, clock = timed_engine(**fields)
    speeds = measure(engine, SIZES, clock)
    for points in (speeds.prefill, speeds.decode):
        rows, columns = {p[0] for p in points}, {p[1] for p in points}
        assert len(points) == len(rows) * len(columns) > 0
    assert max(batch for batch, _, _ in speeds.decode) <= engine.config.max_num_seqs
