"""Where a step's arrays lie on their way to a device, and what fills a decode step up."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from picert.engine.batch import StepBatch
from picert.engine.step_layout import StepLayout, layout_of, padded, padding
from picert.kernels.shared_prefix import SharedPrefixes, find_shared_prefixes

BLOCK_SIZE = 4


def int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def mixed() -> StepBatch:
    """A decode at position 5 and the first three tokens of a prompt; tables three blocks wide."""
    return StepBatch(
        seq_ids=(7, 8),
        token_ids=int32(50, 1, 2, 3),
        positions=int32(5, 0, 1, 2),
        slot_mapping=int32(9, 20, 21, 22),
        query_start=int32(0, 1, 4),
        context_lens=int32(6, 3),
        block_tables=np.array([[1, 2, 99], [5, 98, 97]], np.int32),
        logits_indices=int32(0),
        sample_rows=int32(0),
    )


def decode(num_seqs: int) -> StepBatch:
    rows = np.arange(num_seqs, dtype=np.int32)
    return StepBatch(
        seq_ids=tuple(range(num_seqs)),
        token_ids=rows + 10,
        positions=rows + 1,
        slot_mapping=rows * BLOCK_SIZE + 1,
        query_start=np.arange(num_seqs + 1, dtype=np.int32),
        context_lens=rows + 2,
        block_tables=rows[:, None],
        logits_indices=rows,
        sample_rows=rows,
    )


def read(layout: StepLayout, memory: NDArray[np.int32], name: str) -> NDArray[np.int32]:
    at, shape = layout.places()[name]
    return memory[at : at + int(np.prod(shape))].reshape(shape)


def written(
    layout: StepLayout, batch: StepBatch, shared: SharedPrefixes | None = None
) -> NDArray[np.int32]:
    memory = np.full(layout.num_values, -99, np.int32)
    layout.write(batch, shared, memory)
    return memory


def test_every_array_is_found_where_the_layout_says() -> None:
    batch = mixed()
    layout = layout_of(batch, None, BLOCK_SIZE)
    memory = written(layout, batch)
    for name in layout.shapes:
        wanted = getattr(batch, name)
        if name == "block_tables":
            wanted = wanted[:, :2]  # what the longest sequence of 6 tokens reaches
        assert read(layout, memory, name).tolist() == wanted.tolist(), name


def test_arrays_begin_at_multiples_of_128_bytes_and_do_not_meet() -> None:
    layout = StepLayout(num_tokens=33, num_seqs=3, num_logits=0, table_len=11)
    spans = [(at, at + int(np.prod(shape))) for at, shape in layout.places().values()]
    assert all(at * 4 % 128 == 0 for at, _ in spans)
    assert all(end <= at for (_, end), (at, _) in pairwise(spans))
    assert spans[-1][1] <= layout.num_values


def test_a_table_wider_than_the_batch_is_filled_with_zeros() -> None:
    batch = mixed()
    layout = StepLayout(num_tokens=4, num_seqs=2, num_logits=1, table_len=5)
    tables = read(layout, written(layout, batch), "block_tables")
    assert tables.tolist() == [[1, 2, 99, 0, 0], [5, 98, 97, 0, 0]]


@pytest.mark.parametrize("num_seqs", [3, 4, 8])
def test_padded_step_keeps_its_sequences_and_adds_ones_that_write_nowhere(num_seqs: int) -> None:
    batch = decode(3)
    full = padded(batch, num_seqs)
    assert full.num_seqs == full.num_tokens == num_seqs
    for name in ("token_ids", "positions", "slot_mapping", "context_lens"):
        assert getattr(full, name)[:3].tolist() == getattr(batch, name).tolist()
    assert full.block_tables[:3].tolist() == batch.block_tables.tolist()
    assert (full.slot_mapping[3:] < 0).all()
    assert (full.context_lens[3:] == 1).all()
    assert full.query_start.tolist() == list(range(num_seqs + 1))
    assert full.logits_indices.tolist() == list(range(num_seqs))


def test_padding_alone_is_a_step_of_nobody() -> None:
    nobody = padding(2)
    assert nobody.slot_mapping.tolist() == [-1, -1]
    assert layout_of(nobody, None, BLOCK_SIZE) == StepLayout(2, 2, 2, table_len=1)
    for name in layout_of(nobody, None, BLOCK_SIZE).shapes:
        assert getattr(nobody, name).dtype == np.int32


def test_shared_prefixes_lie_behind_with_runs_of_nothing_to_fill_up() -> None:
    tables = np.tile(np.arange(600, dtype=np.int32), (2, 1))  # 2 sequences, 600 blocks in common
    lengths = int32(2400, 2400)
    shared = find_shared_prefixes(tables, lengths, BLOCK_SIZE)
    assert shared is not None
    layout = StepLayout(4, 4, 4, table_len=600, num_runs=2, num_members=4)
    memory = written(layout, padded(decode(2), 4), shared)
    assert read(layout, memory, "runs").tolist() == [*shared.runs.tolist(), [0] * 5]
    assert read(layout, memory, "members").tolist() == [*shared.members.tolist(), 0, 0]
    assert read(layout, memory, "covered").tolist() == [*shared.covered.tolist(), [0, 0], [0, 0]]
    nothing = written(layout, padding(4))
    assert not read(layout, nothing, "runs").any()
    assert layout_of(decode(2), shared, BLOCK_SIZE).num_runs == 1
