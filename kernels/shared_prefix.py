"""SharedPrefixes: runs of cached tokens that several decoding sequences begin with.

The segments of one sketch have the sketch in common, all requests a system prompt: their block
tables begin with the same blocks. `paged_decode` reads keys and values of such a run once for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from picert.errors import ConfigError

# Positions of one partial result of paged_decode. To write and read it costs 2 * group / PIECE of
# its keys and values, 3 % with eight heads to a key; and a sequence of 4,096 tokens still has eight
# pieces for each key/value head.
PIECE = 512
# Tokens of a run. A shorter one costs about as much in partial results as it saves in keys.
_MIN_RUN = 64
# Reads of a token that a step must save to be worth a launch: 6 MB of Llama-3-8B.
_MIN_SAVED = 1536

IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What fixes the launches: sizes of the tensors, and the largest of what they tell."""

    num_runs: int
    num_members: int  # of all runs
    members_of_run: int
    pieces_of_run: int
    runs_of_sequence: int

    def hold(self, other: Bounds) -> bool:
        """Whether there is room for `other`."""
        return all(getattr(other, name) <= getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """The runs of a step's decoding sequences; int32 tensors on the step's device.

    The runs of a sequence follow each other from position 0 on; behind them it is alone. Each run
    and the rest are cut into pieces of PIECE positions, counted through over the sequence.
    """

    # [R, 5] first member and number of members, first position and the one past the last, first
    # piece of each run.
    runs: Tensor
    members: Tensor  # [M] sequences, run by run
    covered: Tensor  # [S, 2] positions of a sequence that lie in runs, and their pieces
    bounds: Bounds

    def to(self, device: torch.device) -> SharedPrefixes:
        """The same there."""
        return SharedPrefixes(
            runs=self.runs.to(device, non_blocking=True),
            members=self.members.to(device, non_blocking=True),
            covered=self.covered.to(device, non_blocking=True),
            bounds=self.bounds,
        )

    def padded(self, bounds: Bounds) -> SharedPrefixes:
        """With runs of nothing up to those sizes, as a captured launch wants it.

        Raises ConfigError where there is no room.
        """
        if not bounds.hold(self.bounds):
            raise ConfigError(f"shared prefixes have {self.bounds}, room is for {bounds}")
        runs = self.runs.new_zeros((bounds.num_runs, 5))
        runs[: len(self.runs)] = self.runs
        members = self.members.new_zeros(bounds.num_members)
        members[: len(self.members)] = self.members
        return replace(self, runs=runs, members=members, bounds=bounds)


@dataclass(frozen=True, slots=True)
class _Run:
    rows: NDArray[np.intp]
    begin: int  # blocks
    end: int
    first_piece: int
    depth: int  # how many runs its sequences have up to here
    num_pieces: int


def find_shared_prefixes(
    block_tables: IntArray, context_lens: IntArray, block_size: int
) -> SharedPrefixes | None:
    """Of sequences that decode: block_tables [S, max_blocks], context_lens [S]; on the CPU.

    None where so little is shared that a launch more would not be worth it. Only blocks that are
    full are shared, so each sequence of a run sees all of it.
    """
    num_full = context_lens // block_size
    if int((num_full > 0).sum()) < 2:
        return None
    order, common = _neighbours(block_tables, num_full)
    runs = list(_runs(order, common, block_size))
    saved = sum((len(run.rows) - 1) * (run.end - run.begin) for run in runs) * block_size
    return _tensors(runs, len(num_full), block_size) if saved >= _MIN_SAVED else None


def _neighbours(tables: IntArray, num_full: IntArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows in an order in which equal beginnings are adjacent, and the number of full blocks
    that each has in common with the next.
    """
    num_rows, width = tables.shape
    alone = -1 - np.arange(num_rows, dtype=np.int32)  # what nobody else has
    keys = np.where(np.arange(width) < num_full[:, None], tables, alone[:, None])
    # Bytes sort faster than columns, and any order does that goes by one block after the other.
    whole = keys.view(np.dtype((np.void, keys.itemsize * width)))[:, 0]
    order = np.argsort(whole, kind="stable")
    keys = keys[order]
    differs = keys[1:] != keys[:-1]
    return order, np.where(differs.any(axis=1), differs.argmax(axis=1), width)


def _runs(
    rows: NDArray[np.intp],
    common: NDArray[np.intp],
    block_size: int,
    begin: int = 0,
    first_piece: int = 0,
    depth: int = 0,
) -> Iterator[_Run]:
    """Of sorted rows that agree on the blocks before `begin`, those of all before those of some."""
    if len(rows) < 2:
        return
    end = int(common.min())
    if (end - begin) * block_size >= _MIN_RUN:
        num_pieces = -(-(end - begin) * block_size // PIECE)
        depth += 1
        yield _Run(rows, begin, end, first_piece, depth, num_pieces)
        begin, first_piece = end, first_piece + num_pieces
    cuts = [0, *(np.flatnonzero(common == end) + 1).tolist(), len(rows)]
    for first, last in pairwise(cuts):
        part = rows[first:last], common[first : last - 1]
        yield from _runs(*part, block_size, begin, first_piece, depth)


def _tensors(runs: list[_Run], num_seqs: int, block_size: int) -> SharedPrefixes:
    table = np.zeros((len(runs), 5), np.int32)
    covered = np.zeros((num_seqs, 2), np.int32)
    first_member = 0
    for row, run in zip(table, runs, strict=True):
        positions = run.begin * block_size, run.end * block_size
        row[:] = first_member, len(run.rows), *positions, run.first_piece
        first_member += len(run.rows)
        covered[run.rows] = positions[1], run.first_piece + run.num_pieces  # the last run's stay
    members = np.concatenate([run.rows for run in runs]).astype(np.int32)
    bounds = Bounds(
        num_runs=len(runs),
        num_members=len(members),
        members_of_run=max(len(run.rows) for run in runs),
        pieces_of_run=max(run.num_pieces for run in runs),
        runs_of_sequence=max(run.depth for run in runs),
    )
    return SharedPrefixes(
        runs=torch.from_numpy(table),
        members=torch.from_numpy(members),
        covered=torch.from_numpy(covered),
        bounds=bounds,
    )
