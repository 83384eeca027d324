"""What becomes of the rows when judging does not end as it should."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from pice import quality
from pice.answers import Written
from pice.judge import Judge, Labels
from pice.plan import Task
from pice.quality import SelfTest, quality_rows

from picert.messages import ChatMessage
from picert.simulate.load import Load
from picert.simulate.questions import Question

QUESTION = Question(id="q", question_class="generic", question="Why?", checks=("It says why.",))
CELLS = {
    Task(mode, Load("light"), ("generic",), ()): [Written(QUESTION, mode, (), False, 1.0)]
    for mode in ("direct", "pice", "static")
}
ARGS = Namespace(judge_model=None, judge_url=None, cloud_model="m", pairwise=False)


class Scorer:
    """Is certain, until its `last` question, at which something happens."""

    def __init__(self, last: int, happens: str) -> None:
        self._left = last
        self._happens = happens

    def odds(
        self, chats: Sequence[Sequence[ChatMessage]], labels: Labels
    ) -> list[tuple[float, float] | None]:
        self._left -= 1
        if self._left == 0 and self._happens == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if self._left == 0 and self._happens == "error":
            raise ValueError("no log-probabilities")
        return [(0.2, 0.8) if "(empty)" in chat[-1].content else (0.9, 0.1) for chat in chats]


@pytest.fixture
def judge_that(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    @contextmanager
    def judge_of(_: Namespace) -> Iterator[Judge]:
        yield Judge(Scorer(2, request.param))

    monkeypatch.setattr(quality, "judge_of", judge_of)


@pytest.mark.parametrize("judge_that", ["error"], indirect=True)
@pytest.mark.usefixtures("judge_that")
def test_judge_that_fails_costs_one_cell_its_score() -> None:
    rows = [row for _, row in quality_rows(ARGS, CELLS, SelfTest())]
    assert [row["checklist_score"] is None for row in rows] == [False, True, False]
    assert rows[1]["missing"]["checklist_score"] == "no log-probabilities"


@pytest.mark.parametrize("judge_that", ["signal"], indirect=True)
@pytest.mark.usefixtures("judge_that")
def test_whoever_ends_the_judging_gets_the_rows_that_are_left_unjudged() -> None:
    rows = []
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        rows.extend(row for _, row in quality_rows(ARGS, CELLS, SelfTest()))
    assert ended.value.code == 128 + signal.SIGTERM
    assert [row["checklist_score"] is None for row in rows] == [False, True, True]
    assert "ended" in rows[2]["missing"]["checklist_score"]
    assert all(row["mechanical"]["truncated"] == 1.0 for row in rows)
    assert signal.getsignal(signal.SIGTERM) == handler
