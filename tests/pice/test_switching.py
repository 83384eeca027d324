import msgspec
import pytest

from picert.errors import ModelNotFound
from picert.messages import ExpandJob, ModelInfo
from picert.pice.switching import choose_model

SMALL = ModelInfo("small", "f1", 100, 2048)
LARGE = ModelInfo("large", "f2", 500, 2048)
JOB = ExpandJob(
    request_id="r",
    attempt=0,
    question="q",
    outline=(),
    segments=(),
    max_tokens=8,
    deadline_s=1.0,
)


def test_the_largest_model_is_the_default() -> None:
    assert choose_model(JOB, [SMALL, LARGE]) == "large"


def test_a_named_model_is_kept() -> None:
    assert choose_model(msgspec.structs.replace(JOB, model="small"), [SMALL, LARGE]) == "small"


def test_an_unknown_model_is_refused_with_what_there_is() -> None:
    with pytest.raises(ModelNotFound, match="'huge', it has small, large"):
        choose_model(msgspec.structs.replace(JOB, model="huge"), [SMALL, LARGE])
    with pytest.raises(ModelNotFound, match="no model"):
        choose_model(JOB, [])
