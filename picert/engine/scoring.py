"""Scoring: what the model thinks of tokens that somebody else wrote, from one reading of them.

A scored sequence is a prompt that is read and not answered. In each step it has the logits of those
of its tokens that come before a wanted one; the log-probabilities are kept here until all is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from picert.engine.batch import StepBatch
from picert.engine.sampler import FloatArray
from picert.errors import InvalidRequest

Span = tuple[int, int]  # from a token of a prompt up to, not including, another
MAX_CHUNK = 64  # tokens of one step: their logits are held at once, 40 MB of a large vocabulary


@dataclass(slots=True)
class _Scored:
    """One sequence."""

    token_ids: NDArray[np.int32]
    spans: tuple[Span, ...]
    is_wanted: NDArray[np.bool_]  # [tokens]
    logprobs: NDArray[np.float64]  # [tokens], of those that are wanted, once they are read


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Of one sequence in one step: the wanted tokens, each told by the row before its own."""

    seq_id: int
    targets: NDArray[np.int64]  # places in the sequence
    rows: NDArray[np.int64]  # rows of the step's tokens


class Scoring:
    """The scored sequences of an engine, by sequence id; whoever adds one removes it."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._scored: dict[int, _Scored] = {}

    @property
    def seq_ids(self) -> set[int]:
        """Of all that are here."""
        return set(self._scored)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._scored

    def add(self, seq_id: int, token_ids: Sequence[int], spans: Sequence[Span]) -> None:
        """Expect a sequence. Raises InvalidRequest as `check_spans`."""
        check_spans(spans, len(token_ids))
        is_wanted = np.zeros(len(token_ids), np.bool_)
        for begin, end in spans:
            is_wanted[begin:end] = True
        ids = np.asarray(token_ids, np.int32)
        values = np.zeros(len(token_ids))
        self._scored[seq_id] = _Scored(ids, tuple(spans), is_wanted, values)

    def remove(self, seq_id: int) -> None:
        """Forget a sequence; nothing if there is none."""
        self._scored.pop(seq_id, None)

    def extend(self, batch: StepBatch) -> tuple[StepBatch, list[ScoredRows]]:
        """The step with the rows, after those to be sampled, whose logits are wanted here; and
        which they are."""
        wanted = [
            rows
            for place, seq_id in enumerate(batch.seq_ids)
            if seq_id in self._scored and len((rows := self._rows(batch, place)).rows)
        ]
        if not wanted:
            return batch, wanted
        more = np.concatenate([rows.rows for rows in wanted]).astype(np.int32)
        indices = np.concatenate((batch.logits_indices, more))
        return replace(batch, logits_indices=indices), wanted

    def take(self, wanted: Sequence[ScoredRows], logits: FloatArray) -> None:
        """The logits [M, V] of the rows that `extend` put there."""
        at = 0
        for rows in wanted:
            own = logits[at : at + len(rows.rows), : self._vocab_size]
            at += len(rows.rows)
            scored = self._scored.get(rows.seq_id)
            if scored is not None:  # nobody gave it up meanwhile
                scored.logprobs[rows.targets] = logprobs_of(own, scored.token_ids[rows.targets])

    def means(self, seq_id: int) -> tuple[float, ...]:
        """Of a sequence that is read: the mean log-probability of each span's tokens."""
        scored = self._scored[seq_id]
        return tuple(float(scored.logprobs[begin:end].mean()) for begin, end in scored.spans)

    def _rows(self, batch: StepBatch, place: int) -> ScoredRows:
        """Of the sequence in row `place` of the step."""
        seq_id = batch.seq_ids[place]
        first, last = batch.query_start[place : place + 2].tolist()
        begin = int(batch.positions[first])  # its first token in the step
        is_wanted = self._scored[seq_id].is_wanted[begin + 1 : begin + 1 + last - first]
        offsets = np.flatnonzero(is_wanted)
        return ScoredRows(seq_id, begin + 1 + offsets, first + offsets)


def check_spans(spans: Sequence[Span], num_tokens: int) -> None:
    """Raises InvalidRequest for a span that is empty or not after the first token of the prompt."""
    if not spans:
        raise InvalidRequest("there is no span to score, at least 1 is needed", param="spans")
    for begin, end in spans:
        if not 1 <= begin < end <= num_tokens:
            raise InvalidRequest(
                f"span {begin} to {end} of a prompt of {num_tokens} tokens: it must begin at 1 or "
                "later, as nothing tells the first token, and end behind its beginning",
                param="spans",
            )


def logprobs_of(logits: FloatArray, token_ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Log-probability of one token in each row of logits [M, V]."""
    top = logits.max(axis=1)
    sums = np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(token_ids)), token_ids]
    result: NDArray[np.float64] = chosen.astype(np.float64) - top - np.log(sums)
    return result
