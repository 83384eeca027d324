"""Which captured step serves a batch: sizes, laziness, limits, forgetting; without a device."""

import pytest

from picert.engine.decode_graphs import DecodeGraphs, DecodeShape
from picert.kernels.shared_prefix import Bounds


class Capture:
    """Counts what is captured."""

    def __init__(self) -> None:
        self.shapes: list[DecodeShape] = []

    def __call__(self, shape: DecodeShape) -> str:
        self.shapes.append(shape)
        return f"{shape.num_seqs} x {shape.context_len}, number {len(self.shapes)}"


def graphs(max_graphs: int = 64, max_context_len: int = 4096) -> tuple[DecodeGraphs[str], Capture]:
    capture = Capture()
    kept = DecodeGraphs(capture, max_context_len=max_context_len, max_graphs=max_graphs)
    return kept, capture


@pytest.mark.parametrize(
    ("num_seqs", "context_len", "wanted"),
    [
        (1, 1, DecodeShape(1, 512)),
        (3, 512, DecodeShape(4, 512)),
        (5, 513, DecodeShape(8, 1024)),
        (17, 2000, DecodeShape(24, 2048)),
        (64, 2049, DecodeShape(64, 3000)),  # no longer than a sequence can be
        (65, 3000, DecodeShape(80, 3000)),
        (256, 1, DecodeShape(256, 512)),
    ],
)
def test_step_runs_as_the_next_larger_shape(
    num_seqs: int, context_len: int, wanted: DecodeShape
) -> None:
    kept, _ = graphs(max_context_len=3000)
    assert kept.shape_for(num_seqs, context_len) == wanted


def test_at_most_a_quarter_of_a_shape_from_8_on_is_padding() -> None:
    kept, _ = graphs()
    for num_seqs in range(1, 257):
        shape = kept.shape_for(num_seqs, 1)
        assert shape is not None
        assert shape.num_seqs >= num_seqs
        assert num_seqs < 8 or shape.num_seqs - num_seqs < max(8, num_seqs / 4)


@pytest.mark.parametrize(("num_seqs", "context_len"), [(257, 1), (1, 4097)])
def test_beyond_the_largest_shape_there_is_none(num_seqs: int, context_len: int) -> None:
    kept, capture = graphs()
    assert kept.shape_for(num_seqs, context_len) is None
    assert capture.shapes == []


def test_room_for_what_is_shared_doubles() -> None:
    kept, _ = graphs()
    shape = kept.shape_for(8, 600, Bounds(1, 5, 3, 2, 1))
    assert shape == DecodeShape(8, 1024, Bounds(1, 8, 4, 2, 1))
    assert shape != kept.shape_for(8, 600)


def test_a_shape_is_captured_when_first_wanted_and_only_then() -> None:
    kept, capture = graphs()
    shape, other = DecodeShape(8, 512), DecodeShape(8, 1024)
    assert kept.graph(shape) == kept.graph(shape) == "8 x 512, number 1"
    assert kept.graph(other) == "8 x 1024, number 2"
    assert capture.shapes == [shape, other]


def test_the_longest_unused_is_forgotten_at_the_limit() -> None:
    kept, capture = graphs(max_graphs=2)
    first, second, third = (DecodeShape(n, 512) for n in (1, 2, 4))
    for shape in (first, second, first, third):
        kept.graph(shape)
    assert len(kept) == 2
    kept.graph(first)
    assert capture.shapes == [first, second, third]
    kept.graph(second)
    assert capture.shapes == [first, second, third, second]


def test_a_capture_that_fails_leaves_nothing() -> None:
    def fail(shape: DecodeShape) -> str:
        raise RuntimeError("out of memory")

    kept = DecodeGraphs(fail, max_context_len=4096)
    with pytest.raises(RuntimeError, match="out of memory"):
        kept.graph(DecodeShape(1, 512))
    assert len(kept) == 0


def test_after_clearing_all_is_captured_anew() -> None:
    kept, capture = graphs()
    kept.graph(DecodeShape(1, 512))
    kept.clear()
    assert len(kept) == 0
    assert kept.graph(DecodeShape(1, 512)) == "1 x 512, number 2"
    assert len(capture.shapes) == 2
