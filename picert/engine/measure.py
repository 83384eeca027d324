"""How fast an engine is: seconds of prompts and of steps, over tokens, batch and context.

For an engine that does nothing else meanwhile. Prompts are random tokens, so none is found in the
prefix cache.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from picert.engine.engine import Engine
from picert.messages import SamplingParams

Clock = Callable[[], float]
Point = tuple[int, int, float]
_NUM_STEPS = 5  # timed of each batch; their median counts
_SEED = 7


@dataclass(frozen=True, slots=True)
class Sizes:
    """What to measure. Sizes that the engine cannot hold are left out."""

    prompt_tokens: tuple[int, ...] = (32, 128, 512)
    prompts: tuple[int, ...] = (1, 4)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    contexts: tuple[int, ...] = (64, 384)


@dataclass(frozen=True, slots=True)
class Speeds:
    """Full grids of points: prefill (tokens of a prompt, prompts at once, seconds for all) and
    decode (sequences, tokens of context, seconds of a step).
    """

    prefill: tuple[Point, ...]
    decode: tuple[Point, ...]


def measure(engine: Engine, sizes: Sizes | None = None, clock: Clock = time.perf_counter) -> Speeds:
    """Time `engine`; a minute for a large model on a small machine. Raises what Engine.add does."""
    wanted = _held(engine, sizes or Sizes())
    bench = _Bench(engine, clock)
    bench.prefill(min(wanted.prompt_tokens), 1)  # memory is touched for the first time
    prefill = [
        (tokens, count, bench.prefill(tokens, count))
        for tokens in wanted.prompt_tokens
        for count in wanted.prompts
    ]
    decode = [
        (batch, context, seconds)
        for context in wanted.contexts
        for batch, seconds in bench.steps(wanted.batches, context)
    ]
    return Speeds(tuple(prefill), tuple(decode))


def _held(engine: Engine, sizes: Sizes) -> Sizes:
    """The sizes for which there is room: in the context of one sequence, and in the cache."""
    most = engine.config.max_num_seqs
    batches = tuple(n for n in sizes.batches if n <= most)
    share = min(engine.max_model_len, engine.kv_tokens // max(batches) - engine.kv_plan.block_size)

    def fits(context: int) -> bool:
        return context + _new_tokens(engine, batches, context) <= share

    prompts = tuple(n for n in sizes.prompt_tokens if n < engine.max_model_len)
    contexts = tuple(n for n in sizes.contexts if fits(n))
    return Sizes(
        prompt_tokens=prompts or (engine.max_model_len // 2,),
        prompts=tuple(n for n in sizes.prompts if n <= most),
        batches=batches if contexts else (1,),
        contexts=contexts or (1,),
    )


def _new_tokens(engine: Engine, batches: Sequence[int], context: int) -> int:
    """The most that a sequence gets: while the others are still read, and in the timed steps."""
    count = max(batches)
    read_in_a_step = max(1, engine.config.max_num_batched_tokens - count)
    return count * context // read_in_a_step + count + _NUM_STEPS * (len(batches) + 1)


class _Bench:
    """Runs one engine and looks at the clock."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._random = np.random.default_rng(_SEED)

    def prefill(self, tokens: int, count: int) -> float:
        """Seconds to read `count` prompts and draw the first token of each."""
        self._add(count, tokens, max_tokens=1)
        began = self._clock()
        while self._engine.has_work:
            self._engine.step()
        return self._clock() - began

    def steps(self, batches: Sequence[int], context: int) -> list[tuple[int, float]]:
        """Seconds of a step for each batch, at about this context: the largest batch first, then
        fewer and fewer of the same sequences.
        """
        descending = sorted(batches, reverse=True)
        room = _new_tokens(self._engine, batches, context)
        names = self._add(descending[0], context, max_tokens=room)
        self._read_all(names)
        found = []
        for batch in descending:
            for name in names[batch:]:
                self._engine.abort(name)
            names = names[:batch]
            found.append((batch, statistics.median(self._timed() for _ in range(_NUM_STEPS))))
        for name in names:
            self._engine.abort(name)
        while self._engine.has_work:  # a step may be under way for them: the next figure is not its
            self._engine.step()
        return found

    def _read_all(self, names: Sequence[str]) -> None:
        """Step until each has its first token; the first ones have several by then."""
        waiting = set(names)
        while waiting:
            waiting -= {output.request_id for output in self._engine.step()}

    def _timed(self) -> float:
        began = self._clock()
        self._engine.step()
        return self._clock() - began

    def _add(self, count: int, tokens: int, max_tokens: int) -> list[str]:
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        names = [f"measure-{n}" for n in range(count)]
        for name in names:
            ids = self._random.integers(1, self._engine.vocab_size, tokens)
            self._engine.add(name, ids.tolist(), params)
        return names
