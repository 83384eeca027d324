"""find_shared_prefixes against grouping by dictionaries, one block after the other."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")

from picert.kernels.shared_prefix import PIECE, IntArray, SharedPrefixes, find_shared_prefixes

BLOCK = 16
Run = tuple[frozenset[int], int, int, int]  # members, first position, the one past the last, piece


def naive_runs(
    tables: list[list[int]], members: list[int], at: int = 0, begin: int = 0, piece: int = 0
) -> list[Run]:
    """Of members that agree on the blocks before `at`; those before `begin` are in runs already."""
    groups = defaultdict(list)
    for member in members:
        if at < len(tables[member]):
            groups[tables[member][at]].append(member)
    if len(members) > 1 and any(len(group) == len(members) for group in groups.values()):
        return naive_runs(tables, members, at + 1, begin, piece)
    runs: list[Run] = []
    if len(members) > 1 and (at - begin) * BLOCK >= 64:
        runs.append((frozenset(members), begin * BLOCK, at * BLOCK, piece))
        piece += -(-(at - begin) * BLOCK // PIECE)
        begin = at
    for group in groups.values():
        if len(group) > 1:
            runs += naive_runs(tables, group, at + 1, begin, piece)
    return runs


def runs_of(found: SharedPrefixes) -> list[Run]:
    members = found.members.tolist()
    return [
        (frozenset(members[first : first + size]), begin, end, piece)
        for first, size, begin, end, piece in found.runs.tolist()
    ]


def arrays(tables: list[list[int]], lengths: list[int]) -> tuple[IntArray, NDArray[np.int32]]:
    widest = max(map(len, tables))
    rows = [[*table, *[0] * (widest - len(table))] for table in tables]
    return np.array(rows, np.int32), np.array(lengths, np.int32)


@st.composite
def families(draw: st.DrawFn) -> list[list[int]]:
    """Block tables, each grown from a part of one before it."""
    tables: list[list[int]] = [[]]
    for _ in range(draw(st.integers(1, 12))):
        parent = tables[draw(st.integers(0, len(tables) - 1))]
        kept = parent[: draw(st.integers(0, len(parent)))]
        grown = draw(st.integers(0, 60))
        tables.append([*kept, *range(100 * len(tables), 100 * len(tables) + grown)])
    return tables[1:]


@settings(max_examples=60, deadline=None)
@given(tables=families(), ends=st.lists(st.integers(0, BLOCK - 1), min_size=12, max_size=12))
def test_runs_are_those_of_the_slow_twin(tables: list[list[int]], ends: list[int]) -> None:
    # The last block of a sequence may be half full, and then nobody else has it.
    lengths = [len(table) * BLOCK + end for table, end in zip(tables, ends, strict=False)]
    padded = [[*table, 7000 + seq] for seq, table in enumerate(tables)]
    wanted = naive_runs(tables, list(range(len(tables))))
    saved = sum((len(members) - 1) * (end - begin) for members, begin, end, _ in wanted)
    found = find_shared_prefixes(*arrays(padded, lengths), BLOCK)
    if saved < 1536:
        assert found is None
        return
    assert found is not None
    assert len(found.runs) == len(wanted)
    assert set(runs_of(found)) == set(wanted)
    for seq, (positions, pieces) in enumerate(found.covered.tolist()):
        mine = sorted(run[1:] for run in wanted if seq in run[0])
        assert positions == (mine[-1][1] if mine else 0)
        assert pieces == sum(-(-(end - begin) // PIECE) for begin, end, _ in mine)
        assert len(mine) <= found.bounds.runs_of_sequence
    assert found.bounds.members_of_run == max(len(run[0]) for run in wanted)
    assert found.bounds.pieces_of_run == max(-(-(end - b) // PIECE) for _, b, end, _ in wanted)


def test_blocks_that_are_not_full_are_not_shared() -> None:
    tables, lengths = arrays([list(range(200))] * 2, [200 * BLOCK, 200 * BLOCK - 1])
    found = find_shared_prefixes(tables, lengths, BLOCK)
    assert found is not None
    assert runs_of(found) == [(frozenset({0, 1}), 0, 199 * BLOCK, 0)]


def test_padding_is_not_a_block_that_is_shared() -> None:
    tables, lengths = arrays([[5], [6], [7]], [BLOCK, 0, 0])
    assert find_shared_prefixes(tables, lengths, BLOCK) is None
