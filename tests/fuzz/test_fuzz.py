"""The short form of tests/fuzz/fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import fuzz, targets

INPUTS = {"codec": 5000, "gguf": 2000, "safetensors": 1000, "template": 300, "http": 200}


@pytest.mark.parametrize("name", INPUTS)
def test_damaged_input_is_refused_in_time_and_in_words(name: str, tmp_path: Path) -> None:
    assert fuzz(targets(tmp_path)[name](), INPUTS[name], seed=1) is None
