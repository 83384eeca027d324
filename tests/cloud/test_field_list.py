"""docs/conformance.md is what the models say today."""

from pathlib import Path

import pytest

from picert.cloud.field_list import field_list
from picert.cloud.openai_schema import ChatRequest, CompletionRequest

PAGE = Path(__file__).parent.parent.parent / "docs" / "conformance.md"


def test_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == field_list(), "run `make docs`"


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
def test_every_field_says_what_it_does(model: type[ChatRequest]) -> None:
    silent = [name for name, field in model.model_fields.items() if not field.description]
    assert not silent
