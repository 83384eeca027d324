"""Log lines: one a record, whatever a peer or a user wrote, and never what they asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from picert.log import configure, get_logger

FORGED = "q\n12:00:00 error cloud all is lost\x1b[31m\u2028\u202etxt\x85"


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("picert")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.mark.parametrize("style", ["text", "json"])
def test_text_of_others_makes_no_line_of_its_own(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("cloud", "info", style)  # type: ignore[arg-type]
    get_logger("picert.test").info("asked: %s", FORGED, extra={"request_id": FORGED})
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.rstrip("\n").isprintable()


def test_json_line_has_time_level_role_and_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure("cloud", "info", "json")
    get_logger("picert.test").warning("slow", extra={"request_id": "q1"})
    told = json.loads(capsys.readouterr().err)
    assert {key: told[key] for key in ("level", "role", "request_id", "message")} == {
        "level": "warning",
        "role": "cloud",
        "request_id": "q1",
        "message": "slow",
    }
    assert told["time"].endswith("Z")
    assert "T" in told["time"]


def test_trace_of_a_fault_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("edge e", "info", "text")
    try:
        raise ValueError(FORGED)
    except ValueError:
        get_logger("picert.test").exception("failed")
    assert capsys.readouterr().err.count("\n") == 1
