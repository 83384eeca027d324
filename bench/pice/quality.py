"""The part that is not timed: a judge model grades the answers of all cells, once it has been
tested on texts whose result is known."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pice.answers import Written
from pice.cells import tell
from pice.judge import Judge
from pice.plan import Task
from pice.rows import Row, judge_cell, quality_row
from pice.scorers import HttpScorer, LocalScorer
from pice.self_test import ComparingTest, GradingTest, tried_comparing, tried_grading
from pice.system import told_by_signals
from picert.engine.llm import LLM
from picert.errors import PicertError
from picert.simulate.questions import Question

_NOT_COMPARED = "a comparison was not asked for"


@contextmanager
def judge_of(args: argparse.Namespace) -> Iterator[Judge | None]:
    """The judge that was asked for. Raises PicertError if its model is not here."""
    if args.judge_model == "none":
        yield None
    elif args.judge_url:
        scorer = HttpScorer(args.judge_url, args.judge_model or "")
        try:
            yield Judge(scorer)
        finally:
            scorer.close()
    else:
        with LLM(args.judge_model or args.cloud_model) as llm:
            yield Judge(LocalScorer(llm))


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the judge's self-test found, before anything is timed: then it is known early."""

    grading: GradingTest | None = None  # None: there is no judge
    comparing: ComparingTest | None = None  # None: it is not to compare
    grade_s: float = 0.0  # of an answer

    def row(self) -> Row:
        """As it stands in a line of JSON."""
        return {
            "checklist": self.grading and self.grading.row(),
            "pairwise": self.comparing and self.comparing.row(),
        }


def tested_judge(args: argparse.Namespace, questions: Sequence[Question]) -> SelfTest:
    """Raises PicertError if its model is not here."""
    with judge_of(args) as judge:
        if judge is None:
            return SelfTest()
        grading = tried_grading(judge, questions)
        comparing = tried_comparing(judge, questions) if args.pairwise else None
        for name, test in (("grading by checklists", grading), ("comparing in pairs", comparing)):
            if test is not None:
                told = "; ".join(test.fails) or "passed"
                tell(f"judge's self-test, {name}: {told} ({asdict(test)})")
        return SelfTest(grading, comparing, judge.grade_s)


def quality_rows(
    args: argparse.Namespace, cells: Mapping[Task, Sequence[Written]], tested: SelfTest
) -> Iterator[tuple[Task, Row]]:
    """What is known of each cell's quality. A judge that fails, or whoever ends the run, costs the
    scores, not the rest."""
    direct: dict[str, str] = {}
    for task, answers in cells.items():
        if task.mode == "direct":
            direct = {answer.question.id: answer.text for answer in answers} | direct
    same = {
        "judge": args.judge_model or args.cloud_model,
        "judge_self_test": tested.row(),
    }
    if not cells:
        return
    ended: BaseException | None = None
    with judge_of(args) as judge, told_by_signals():
        for task, answers in cells.items():
            missing = {} if args.pairwise else {"pairwise": _NOT_COMPARED}
            if judge is None:
                missing["checklist_score"] = "there is no judge"
            others = direct if task.mode != "direct" else {}
            try:
                if ended is not None:
                    raise ended
                judged = judge_cell(answers, judge, others, pairwise=args.pairwise)
            except (PicertError, ValueError) as error:
                missing["checklist_score"] = str(error)
                judged = judge_cell(answers, None, others, pairwise=False)
            except (KeyboardInterrupt, SystemExit) as error:
                ended = error
                missing["checklist_score"] = "the run was ended before"
                judged = judge_cell(answers, None, others, pairwise=False)
            yield task, {**quality_row(judged), **same, "missing": missing}
    if ended is not None:
        raise ended
