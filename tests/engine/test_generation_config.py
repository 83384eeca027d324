"""Sampling defaults from a model folder."""

from pathlib import Path

import pytest

from picert.engine.generation_config import sampling_defaults
from picert.errors import ModelError
from picert.messages import SamplingParams


def test_folder_without_advice_is_neutral(tmp_path: Path) -> None:
    assert sampling_defaults(tmp_path) == SamplingParams()
    assert sampling_defaults(tmp_path / "model.gguf") == SamplingParams()


def test_advice_is_taken_and_the_rest_stays_neutral(tmp_path: Path) -> None:
    text = '{"temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": [1, 2], "min_p": null}'
    (tmp_path / "generation_config.json").write_text(text)
    assert sampling_defaults(tmp_path) == SamplingParams(temperature=0.7, top_k=20, top_p=0.8)


@pytest.mark.parametrize("text", ["[]", "{", '{"top_p": 3}', '{"top_k": "many"}', "\ud800"])
def test_bad_advice_is_refused_with_the_file_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text, errors="replace")
    with pytest.raises(ModelError, match="generation_config"):
        sampling_defaults(tmp_path)
