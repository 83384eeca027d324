"""Speed of one model on one machine: measured tables, corrected by what real texts take; seconds
predicted from both.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from picert.messages import SpeedCurve

_RATE = 0.2  # weight of a new sample in the exponential mean
_MAX_SURPRISE = 8.0  # one sample moves an estimate as if it were at most this factor off
_MAX_KNOWN = 1024  # lengths of prompts whose seconds are remembered
_MIN_FACTOR, _MAX_FACTOR = 1e-3, 1e3  # how far samples may ever move a table

Point = tuple[int, int, float]


@dataclass(frozen=True, slots=True)
class Surface:
    """Values over a full grid of two sizes, linear between its lines.

    Beyond the largest size of an axis it goes on along the last slope, but never falls; below the
    smallest it is what it is there.
    """

    rows: tuple[int, ...]  # sorted sizes of the first axis
    columns: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]  # [row][column]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Surface:
        """From (row, column, value) triples. Raises ValueError unless they are a full grid of
        positive, finite values.
        """
        rows = tuple(sorted({row for row, _, _ in points}))
        columns = tuple(sorted({column for _, column, _ in points}))
        table = {(row, column): value for row, column, value in points}
        if not points or len(table) != len(points) or len(points) != len(rows) * len(columns):
            raise ValueError("the points are not a full grid")
        if min(rows[0], columns[0]) < 0 or not all(0 < v < math.inf for v in table.values()):
            raise ValueError("a size or a value is out of range")
        values = tuple(tuple(table[row, column] for column in columns) for row in rows)
        return cls(rows, columns, values)

    def at(self, row: float, column: float) -> float:
        """The value there."""
        if row <= self.rows[0] or len(self.rows) == 1:
            return _along(self.columns, self.values[0], column)
        above = min(bisect_left(self.rows, row), len(self.rows) - 1)
        lines = self.values[above - 1 : above + 1]
        across = [_along(self.columns, line, column) for line in lines]
        return _along(self.rows[above - 1 : above + 1], across, row)


class SpeedProfile:
    """Predicted seconds of prefill and decode for one model on one machine.

    A table (measured, or a flat prior) times factors that real texts move, one for prefill and one
    for decode per power of two of the batch; a batch without samples borrows the nearest factor.
    `observe_*` never raises: a sample that cannot be true (no tokens, no time) is left out.
    """

    def __init__(
        self, prefill_tokens_per_s: float = 200.0, decode_s_per_token: float = 0.1
    ) -> None:
        self._prefill = Surface.of([(0, 1, 1e-9), (1, 1, 1.0 / prefill_tokens_per_s)])
        self._decode = Surface.of([(1, 0, decode_s_per_token)])
        self._prefill_factor = 1.0
        self._decode_factors: dict[int, float] = {0: 1.0}  # log2 of the batch size -> factor
        self._known_steps: dict[int, float] = {}  # batch -> what decode_seconds(1, batch) is now
        self._known_reads: dict[int, float] = {}  # tokens of one prompt -> the table's seconds
        self.is_measured = False

    @classmethod
    def of_tables(cls, prefill: Sequence[Point], decode: Sequence[Point]) -> SpeedProfile:
        """From measured points: prefill (tokens of one prompt, prompts at once, seconds for all)
        and decode (batch, tokens of context, seconds of one step). Raises ValueError for points
        that are no table.
        """
        profile = cls()
        nothing = [(0, batch, 1e-9) for batch in sorted({batch for _, batch, _ in prefill})]
        profile._prefill = Surface.of([*nothing, *prefill])
        profile._decode = Surface.of(decode)
        profile.is_measured = True
        return profile

    @classmethod
    def of_curve(cls, curve: SpeedCurve) -> SpeedProfile:
        """From what an edge says of itself."""
        steps = [(batch, 0, seconds) for batch, seconds in curve.decode_s_per_token.items()]
        return cls.of_tables([(1, 1, curve.prefill_s_per_token)], steps)

    def observe_prefill(self, tokens: int, seconds: float) -> None:
        """`tokens` prompt tokens (without cached ones) took `seconds`."""
        if _is_sane(tokens, seconds):
            surprise = seconds / self.prefill_seconds(tokens)
            self._prefill_factor = _bounded(self._prefill_factor * _nudge(surprise))

    def observe_decode(self, tokens: int, seconds: float, batch: int = 1) -> None:
        """One sequence of a batch of `batch` got `tokens` new tokens in `seconds`."""
        if _is_sane(tokens, seconds):
            self._correct_decode(batch, seconds / self.decode_seconds(tokens, batch))

    def observe(self, prompt_tokens: int, new_tokens: int, seconds: float, batch: int = 1) -> None:
        """A whole job took `seconds`; both factors move by what the prediction missed, in
        proportion."""
        expected = predicted_seconds(self, prompt_tokens, new_tokens, batch)
        if not _is_sane(prompt_tokens + new_tokens, seconds) or expected <= 0:
            return
        if prompt_tokens > 0:
            surprise = _nudge(seconds / expected)
            self._prefill_factor = _bounded(self._prefill_factor * surprise)
        if new_tokens > 0:
            self._correct_decode(batch, seconds / expected)

    def prefill_seconds(self, tokens: int, batch: int = 1) -> float:
        """Predicted seconds to read `batch` prompts of `tokens` tokens each, together."""
        if tokens <= 0:
            return 0.0
        if batch > 1:
            return self._prefill.at(tokens, batch) * self._prefill_factor
        known = self._known_reads
        if tokens not in known:
            if len(known) >= _MAX_KNOWN:
                known.clear()
            known[tokens] = self._prefill.at(tokens, batch)
        return known[tokens] * self._prefill_factor

    def decode_seconds(self, tokens: int, batch: int = 1, context: int = 0) -> float:
        """Predicted seconds for one sequence to get `tokens` tokens in a batch of `batch`, each of
        them after `context` tokens.
        """
        if tokens <= 0:
            return 0.0
        if context:
            return tokens * self._step_seconds(batch, context)
        step_s = self._known_steps.get(batch)
        if step_s is None:
            step_s = self._known_steps[batch] = self._step_seconds(batch, 0)
        return tokens * step_s

    def _step_seconds(self, batch: int, context: int) -> float:
        return self._decode.at(max(1, batch), context) * self._decode_factor(batch)

    def _decode_factor(self, batch: int) -> float:
        factors = self._decode_factors
        wanted = _bucket(batch)
        if wanted in factors:
            return factors[wanted]
        return factors[min(factors, key=lambda bucket: (abs(bucket - wanted), bucket))]

    def _correct_decode(self, batch: int, surprise: float) -> None:
        factor = self._decode_factor(batch) * _nudge(surprise)
        self._decode_factors[_bucket(batch)] = _bounded(factor)
        self._known_steps.clear()


def predicted_seconds(
    profile: SpeedProfile, prompt_tokens: int, new_tokens: int, batch: int = 1
) -> float:
    """Predicted seconds of one job that starts now: read the prompt, then write."""
    return profile.prefill_seconds(prompt_tokens) + profile.decode_seconds(new_tokens, batch)


def curve_of(
    model: str, prefill: Sequence[Point], decode: Sequence[Point], load_s: float = 0.0
) -> SpeedCurve:
    """The measured tables of a model, coarse enough to be told: its longest prompt alone, and steps
    at its shortest context.
    """
    tokens, _, seconds = max(point for point in prefill if point[1] == 1)
    context = min(point[1] for point in decode)
    steps: Mapping[int, float] = {b: s for b, c, s in decode if c == context}
    return SpeedCurve(
        model=model,
        prefill_s_per_token=seconds / tokens,
        decode_s_per_token=dict(steps),
        load_s=load_s,
    )


def _along(sizes: Sequence[int], values: Sequence[float], at: float) -> float:
    """Linear between `sizes`, flat before the first, on along the last slope after the last."""
    if at <= sizes[0] or len(sizes) == 1:
        return values[0]
    above = min(bisect_left(sizes, at), len(sizes) - 1)
    low, high = sizes[above - 1], sizes[above]
    slope = (values[above] - values[above - 1]) / (high - low)
    if at > high:
        return values[above] + max(0.0, slope) * (at - high)
    return values[above - 1] + slope * (at - low)


def _bucket(batch: int) -> int:
    return max(1, batch).bit_length() - 1


def _is_sane(tokens: int, seconds: float) -> bool:
    return tokens > 0 and seconds > 0 and math.isfinite(seconds)


def _nudge(ratio: float) -> float:
    """The factor that moves an estimate towards a sample that is `ratio` times as large."""
    return float(min(max(ratio, 1 / _MAX_SURPRISE), _MAX_SURPRISE) ** _RATE)


def _bounded(factor: float) -> float:
    return min(max(factor, _MIN_FACTOR), _MAX_FACTOR)
