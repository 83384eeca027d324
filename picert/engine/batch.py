"""StepBatch: one step's flat int32 arrays, as the scheduling core fills and runners read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """T tokens of S sequences. Views of the scheduler's buffers: valid until its next step."""

    seq_ids: tuple[int, ...]  # S
    token_ids: Int32Array  # [T]; -1 - row: what the step before draws from that row
    positions: Int32Array  # [T]
    slot_mapping: Int32Array  # [T] block_id * block_size + offset
    query_start: Int32Array  # [S + 1] tokens of sequence s are query_start[s] : query_start[s + 1]
    context_lens: Int32Array  # [S] tokens in the cache after this step
    block_tables: Int32Array  # [S, max_blocks] padded with 0
    logits_indices: (
        Int32Array  # [L] rows of T whose logits are wanted: a prompt's last, or a decode
    )
    sample_rows: Int32Array  # [L] the sequence (row of S) that each of them belongs to

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)

    @property
    def num_seqs(self) -> int:
        """S."""
        return len(self.seq_ids)
