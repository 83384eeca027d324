"""Scheduler: the thin Python face of `picert._C.StepScheduler`, which owns all state.

What it decides, and by which rules, is written in csrc/sched/step_scheduler.h; the slow Python twin
that the tests hold it against is tests/support/simulate.py. No torch, no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from picert import _C
from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.kv_cache import KvPlan


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What a step, a sequence and the cache may hold; counts of tokens unless named otherwise."""

    num_blocks: int
    block_size: int
    max_num_seqs: int  # running at once
    max_num_batched_tokens: int  # of one step; at least max_num_seqs
    max_model_len: int  # of one sequence
    prefix_caching: bool = True
    chunked_prefill: bool = True  # False needs max_num_batched_tokens >= max_model_len


def limits_of(config: EngineConfig, plan: KvPlan) -> SchedulerLimits:
    """The step's budget is raised where it could not hold all decodes, or a whole prompt."""
    whole_prompt = 0 if config.enable_chunked_prefill else plan.max_model_len
    return SchedulerLimits(
        num_blocks=plan.num_blocks,
        block_size=plan.block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max(
            config.max_num_batched_tokens, config.max_num_seqs, whole_prompt
        ),
        max_model_len=plan.max_model_len,
        prefix_caching=config.enable_prefix_caching,
        chunked_prefill=config.enable_chunked_prefill,
    )


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How a sequence's tokens may be computed, where somebody wants to see that: the most tokens to
    take from the prefix cache, and the most of one step if prompts are chunked."""

    max_cached: int
    max_chunk: int


class Scheduler:
    """Continuous batching over paged K/V: prefix cache, chunked prefill, preemption by recompute.

    Sequences are named by integers that the caller chooses. Not thread-safe. Misuse raises
    ValueError.
    """

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self._core = _C.StepScheduler(
            num_blocks=limits.num_blocks,
            block_size=limits.block_size,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_model_len=limits.max_model_len,
            prefix_caching=limits.prefix_caching,
            chunked_prefill=limits.chunked_prefill,
        )
        core = (
            self._core
        )  # each property makes a new view of the same memory, so they are taken once
        self._seq_ids = core.seq_ids
        self._token_ids = core.token_ids
        self._positions = core.positions
        self._slot_mapping = core.slot_mapping
        self._query_start = core.query_start
        self._context_lens = core.context_lens
        self._block_tables = core.block_tables
        self._logits_indices = core.logits_indices
        self._sample_rows = core.sample_rows

    def add(  # noqa: PLR0913 - each may be left out but the first three
        self,
        seq_id: int,
        prompt_ids: Sequence[int] | NDArray[np.int32],
        max_len: int,
        *,
        priority: int = 0,
        salt: int = 0,
        read: ReadLimits | None = None,
    ) -> None:
        """Queue a sequence that will never hold more than `max_len` tokens, its prompt among them.

        Lower priorities go first, equal ones in order of arrival. Blocks are shared only among
        equal salts.
        """
        ids = np.asarray(prompt_ids, np.int32)
        limits = () if read is None else (read.max_cached, read.max_chunk)
        self._core.add(seq_id, ids, max_len, priority, salt, *limits)

    def remove(self, seq_id: int) -> bool:
        """Forget a sequence in whatever state, finished or aborted; False if there is none."""
        return self._core.remove(seq_id)

    def append(self, seq_ids: Sequence[int], token_ids: Sequence[int]) -> None:
        """Add to each sequence the token sampled for it, or put it in the place reserved for it;
        all its earlier ones must be computed."""
        self._core.append(seq_ids, token_ids)

    def reserve(self, seq_ids: Sequence[int], rows: Sequence[int]) -> None:
        """Keep a place for the token of each sequence that a step draws which still runs, from that
        row. The next step has -1 - row there; `append` must follow before the one after it."""
        self._core.reserve(seq_ids, rows)

    def schedule(self) -> StepBatch | None:
        """The next step, or None if there is nothing to compute. Valid until the next call."""
        num_seqs, num_tokens, num_logits = self._core.schedule()
        if num_seqs == 0:
            return None
        return StepBatch(
            seq_ids=tuple(self._seq_ids[:num_seqs].tolist()),
            token_ids=self._token_ids[:num_tokens],
            positions=self._positions[:num_tokens],
            slot_mapping=self._slot_mapping[:num_tokens],
            query_start=self._query_start[: num_seqs + 1],
            context_lens=self._context_lens[:num_seqs],
            block_tables=self._block_tables[:num_seqs],
            logits_indices=self._logits_indices[:num_logits],
            sample_rows=self._sample_rows[:num_logits],
        )

    def num_cached_tokens(self, seq_id: int) -> int:
        """Prompt tokens that the prefix cache held at the first admission; 0 before that."""
        return self._core.num_cached_tokens(seq_id)

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return self._core.num_running

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue, preempted ones among them."""
        return self._core.num_waiting

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no sequence holds, whether or not the prefix cache remembers them."""
        return self._core.num_free_blocks

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that sequences hold, 0 to 1."""
        return 1.0 - self._core.num_free_blocks / self.limits.num_blocks

    @property
    def preemptions(self) -> int:
        """Times that a running sequence lost its blocks, since the start."""
        return self._core.preemptions

    @property
    def prefix_queried_tokens(self) -> int:
        """Prompt tokens looked up in the prefix cache, since the start."""
        return self._core.prefix_queried_tokens

    @property
    def prefix_hit_tokens(self) -> int:
        """Of those, found."""
        return self._core.prefix_hit_tokens

    def self_check(self) -> None:
        """Recompute every list and count; RuntimeError where one differs from what is kept."""
        self._core.self_check()
