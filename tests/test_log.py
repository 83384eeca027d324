"""Log lines: one a record, whatever a peer or a user wrote, and never what they asked."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from picert.log import configure, get_logger

FORGED = "q\n12:00:00 error cloud all is lost\x1b[31m\u2028\u202etxt\x85"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logger = logging.getLogger("picert")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield stream
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.mark.parametrize("style", ["text", "json"])
def test_text_of_others_makes_no_line_of_its_own(lines: io.StringIO, style: str) -> None:
    configure("cloud", "info", style)  # type: ignore[arg-type]
    get_logger("picert.test").info("asked: %s", FORGED, extra={"request_id": FORGED})
    assert lines.getvalue().count("\n") == 1
    assert lines.getvalue().rstrip("\n").isprintable()


def test_json_line_has_time_level_role_and_request(lines: io.StringIO) -> None:
    configure("cloud", "info", "json")
    get_logger("picert.test").warning("slow", extra={"request_id": "q1"})
    told = json.loads(lines.getvalue())
    assert {key: told[key] for key in ("level", "role", "request_id", "message")} == {
        "level": "warning",
        "role": "cloud",
        "request_id": "q1",
        "message": "slow",
    }
    assert told["time"].endswith("Z")
    assert "T" in told["time"]


def test_trace_of_a_fault_is_one_line(lines: io.StringIO) -> None:
    configure("edge e", "info", "text")
    try:
        raise ValueError(FORGED)
    except ValueError:
        get_logger("picert.test").exception("failed")
    assert lines.getvalue().count("\n") == 1
