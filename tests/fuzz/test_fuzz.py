"""The short form of tests/fuzz/fuzz.py and tests/fuzz/structured.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import NAMES, Target, fuzz, targets
from structured import explore

INPUTS = {"codec": 5000, "gguf": 2000, "safetensors": 1000, "template": 300, "http": 200}
NUM_STRUCTURED = 200


@pytest.mark.parametrize("name", INPUTS)
def test_damaged_input_is_refused_in_time_and_in_words(name: str, tmp_path: Path) -> None:
    assert fuzz(targets(tmp_path)[name](), INPUTS[name], seed=1) is None


@pytest.mark.parametrize("name", NAMES)
def test_input_that_is_nearly_sound_is_refused_in_time_and_in_words(
    name: str, tmp_path: Path
) -> None:
    num_tried, find = explore(targets(tmp_path)[name](), NUM_STRUCTURED, seed=1)
    assert find is None
    assert num_tried == NUM_STRUCTURED


def test_find_among_structured_inputs_is_told_at_its_smallest() -> None:
    def read(data: bytes) -> None:
        assert b'"top_p"' not in data

    _, find = explore(Target("http", [b""], read), NUM_STRUCTURED, seed=1)
    assert find is not None
    assert "AssertionError" in find
    assert len(find.splitlines()[-1]) < 100


def test_input_that_asks_for_too_much_memory_is_found() -> None:
    # More than earlier tests can have left free inside this process: that is no new memory.
    greedy = Target("greedy", [b""], lambda data: _take(1 << 33))
    assert "MemoryError" in str(fuzz(greedy, 1, 1))
    assert fuzz(Target("modest", [b""], lambda data: _take(1 << 26)), 1, 1) is None


def test_input_without_end_is_found() -> None:
    def read(data: bytes) -> None:
        while True:
            try:
                raise ValueError
            except Exception:
                continue

    assert "no end within 1 s" in str(fuzz(Target("endless", [b""], read), 1, 1))


def _take(num_bytes: int) -> None:
    bytearray(num_bytes)  # never touched: the kernel gives no page for it
