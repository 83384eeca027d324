"""Flights: steps between their launch and their tokens, in the order of their launch.

Where a device draws the tokens, a step is launched behind the one that still runs, with places for
the tokens which that one draws: they are taken on the device. So it never waits for the host to
take up tokens, schedule and write arrays. Which sequences go on is not decided here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from picert.engine.batch import StepBatch
from picert.engine.draws import Draws, draws_of
from picert.engine.runner import PendingStep, Runner
from picert.engine.sampler import Masks, Sampler, SamplingState, masks_of
from picert.engine.scoring import ScoredRows, Scoring
from picert.engine.stats import EngineStats
from picert.messages import TokenLogprob


@dataclass(frozen=True, slots=True)
class _Flight:
    """One step."""

    seq_ids: list[int]  # [R] whose next token is wanted
    draws: Draws  # of the same
    on_host: list[SamplingState]  # of those whose logits come to the host
    masks: Masks  # of these
    scored: list[ScoredRows]  # whose logits lie behind them
    pending: PendingStep
    launch_s: float


class Flights:
    """The steps of one runner that are under way: one, or two where the second needs no host."""

    def __init__(  # noqa: PLR0913 - what a step passes through
        self,
        runner: Runner,
        vocab_size: int,
        scoring: Scoring,
        stats: EngineStats,
        clock: Callable[[], float],
        *,
        has_overlap: bool,
    ) -> None:
        """Tokens are drawn from the first `vocab_size` logits of a row. `has_overlap` has no effect
        where the runner does not draw."""
        self._runner, self._vocab_size = runner, vocab_size
        self._scoring, self._stats, self._clock = scoring, stats, clock
        self._sampler = Sampler(vocab_size, runner.team)
        self._most = 2 if has_overlap and runner.can_draw else 1
        self._flights: deque[_Flight] = deque()

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def have_room(self) -> bool:
        """Whether a step can be launched: all tokens that it begins with are known to somebody.

        Behind a step of which the host samples a row it cannot. Leaving out that row's sequence
        would serve it in every other step only.
        """
        if not self._flights:
            return True
        return len(self._flights) < self._most and not self._flights[-1].on_host

    @property
    def last_seq_ids(self) -> list[int]:
        """The sequence of each row that the step launched last draws from."""
        return self._flights[-1].seq_ids if self._flights else []

    def launch(self, batch: StepBatch, sampling: Mapping[int, SamplingState]) -> None:
        """Begin a step; what sampling needs besides logits is made while a GPU computes them."""
        seq_ids = [batch.seq_ids[row] for row in batch.sample_rows.tolist()]
        states = [sampling[seq_id] for seq_id in seq_ids]
        is_behind = batch.token_ids[batch.logits_indices] < 0 if self._flights else None
        can_draw = self._runner.can_draw
        draws = draws_of(states, self._vocab_size, can_draw=can_draw, is_behind=is_behind)
        batch, scored = self._scoring.extend(batch)
        started_at = self._clock()
        pending = self._runner.launch(batch, draws)
        launch_s = self._clock() - started_at
        on_host = draws.on_host
        masks = masks_of(on_host)
        self._flights.append(_Flight(seq_ids, draws, on_host, masks, scored, pending, launch_s))

    def land(self) -> list[tuple[int, TokenLogprob | None]]:
        """Wait for the oldest step: each of its sequences with its token, sampled here or drawn
        there, or None where none could be."""
        flight = self._flights.popleft()
        num_sampled = len(flight.on_host)
        started_at = self._clock()
        output = flight.pending()
        self._stats.runner.add(flight.launch_s + self._clock() - started_at)
        self._scoring.take(flight.scored, output.logits[num_sampled:])
        started_at = self._clock()
        on_host = self._sampler.sample(output.logits[:num_sampled], flight.on_host, flight.masks)
        tokens = flight.draws.join(on_host, output.drawn)
        self._stats.sampler.add(self._clock() - started_at)
        return [*zip(flight.seq_ids, tokens, strict=True)]

    def close(self) -> None:
        """Forget all steps and let the runner's threads go."""
        self._flights.clear()
        del self._sampler
