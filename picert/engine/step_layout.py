"""StepLayout: a step's int32 arrays one after another in one run of memory, so that they travel to
a device in one copy, and the padding of a decode step to the size of a captured one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from picert.engine.batch import Int32Array, StepBatch
from picert.kernels.shared_prefix import SharedPrefixes

_ALIGNMENT = 32  # values: 128 bytes, more than any kernel asks of a pointer


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Sizes of a step, which say where each array lies."""

    num_tokens: int
    num_seqs: int
    num_logits: int
    table_len: int  # blocks in a row of the block tables
    num_runs: int = 0  # of SharedPrefixes, 0 where nothing is shared
    num_members: int = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of StepBatch's arrays that a decoder reads, in the order in which they lie, and then of
        SharedPrefixes'.
        """
        shared = {
            "runs": (self.num_runs, 5),
            "members": (self.num_members,),
            "covered": (self.num_seqs, 2),
        }
        return {
            "token_ids": (self.num_tokens,),
            "positions": (self.num_tokens,),
            "slot_mapping": (self.num_tokens,),
            "query_start": (self.num_seqs + 1,),
            "context_lens": (self.num_seqs,),
            "logits_indices": (self.num_logits,),
            "block_tables": (self.num_seqs, self.table_len),
            **(shared if self.num_runs else {}),
        }

    @property
    def num_values(self) -> int:
        """Of the run of memory."""
        return sum(_room(shape) for shape in self.shapes.values())

    def places(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Name -> (where it begins, its shape)."""
        found, at = {}, 0
        for name, shape in self.shapes.items():
            found[name] = (at, shape)
            at += _room(shape)
        return found

    def write(self, batch: StepBatch, shared: SharedPrefixes | None, out: Int32Array) -> None:
        """Put a batch and what its decodes share into out[num_values].

        The batch has this layout's sizes, but its block tables may be wider, with blocks that no
        sequence reaches, or narrower. Less may be shared than there is room for.
        """
        for name, (at, shape) in self.places().items():
            place = out[at : at + prod(shape)].reshape(shape)
            if name == "block_tables":
                _fill(place, batch.block_tables[:, : self.table_len])
            elif name in ("runs", "members", "covered"):
                _fill(place, None if shared is None else getattr(shared, name).numpy())
            else:
                place[...] = getattr(batch, name)


def _fill(place: Int32Array, values: Int32Array | None) -> None:
    """`values` at the beginning of each axis, zeros behind them."""
    place[...] = 0
    if values is not None:
        place[tuple(slice(size) for size in values.shape)] = values


def layout_of(batch: StepBatch, shared: SharedPrefixes | None, block_size: int) -> StepLayout:
    """The smallest that holds them."""
    return StepLayout(
        num_tokens=batch.num_tokens,
        num_seqs=batch.num_seqs,
        num_logits=len(batch.logits_indices),
        table_len=-(-int(batch.context_lens.max()) // block_size),
        num_runs=0 if shared is None else shared.bounds.num_runs,
        num_members=0 if shared is None else shared.bounds.num_members,
    )


def padding(num_seqs: int) -> StepBatch:
    """A decode step of sequences that are not there.

    Each reads one token of block 0, its slot is negative, so it is written nowhere, and its row of
    logits is for nobody.
    """
    zeros = np.zeros(num_seqs, np.int32)
    rows = np.arange(num_seqs + 1, dtype=np.int32)
    return StepBatch(
        seq_ids=(-1,) * num_seqs,
        token_ids=zeros,
        positions=zeros,
        slot_mapping=zeros - 1,
        query_start=rows,
        context_lens=zeros + 1,
        block_tables=zeros[:, None],
        logits_indices=rows[:-1],
        sample_rows=rows[:-1],
    )


def padded(batch: StepBatch, num_seqs: int) -> StepBatch:
    """A decode step filled up to `num_seqs` sequences, with logits of all rows."""
    filler = padding(num_seqs - batch.num_seqs)
    tables = np.zeros((num_seqs, batch.block_tables.shape[1]), np.int32)
    tables[: batch.num_seqs] = batch.block_tables
    rows = np.arange(num_seqs + 1, dtype=np.int32)
    return StepBatch(
        seq_ids=batch.seq_ids + filler.seq_ids,
        token_ids=np.concatenate((batch.token_ids, filler.token_ids)),
        positions=np.concatenate((batch.positions, filler.positions)),
        slot_mapping=np.concatenate((batch.slot_mapping, filler.slot_mapping)),
        query_start=rows,
        context_lens=np.concatenate((batch.context_lens, filler.context_lens)),
        block_tables=tables,
        logits_indices=rows[:-1],
        sample_rows=rows[:-1],
    )


def _room(shape: tuple[int, ...]) -> int:
    return -(-prod(shape) // _ALIGNMENT) * _ALIGNMENT
