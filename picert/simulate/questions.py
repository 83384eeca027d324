"""Questions to ask: a line of JSON each, checked when read, picked in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from picert.pice.router import QuestionClass

CLASSES: tuple[QuestionClass, ...] = get_args(QuestionClass)
SUITABLE: tuple[QuestionClass, ...] = ("generic", "knowledge", "common-sense", "counterfactual")
UNSUITABLE = tuple(name for name in CLASSES if name not in SUITABLE)
_SETS = {"all": CLASSES, "suitable": SUITABLE, "unsuitable": UNSUITABLE}


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question. What is not given cannot be judged by: `checks` are statements that a good
    answer satisfies, `answer` is the exact result, `tests` is code that a written program must
    survive."""

    id: str
    question_class: QuestionClass = msgspec.field(name="class")
    question: str
    reference: str | None = None
    checks: tuple[str, ...] = ()
    answer: str | None = None
    tests: str | None = None


def read_questions(path: Path) -> list[Question]:
    """All questions of a file. Raises ValueError with the line that is wrong."""
    found: list[Question] = []
    seen: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"questions {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = msgspec.json.decode(line, type=Question)
        except msgspec.DecodeError as error:
            raise ValueError(f"questions {path}, line {number}: {error}") from None
        for kind, text in (("id", question.id), ("question", question.question.casefold())):
            first = seen.setdefault(f"{kind} {text}", number)
            if first != number:
                raise ValueError(f"questions {path}, line {number}: {kind} is that of line {first}")
        found.append(question)
    if not found:
        raise ValueError(f"questions {path}: there is none in it")
    return found


def parse_classes(text: str) -> tuple[QuestionClass, ...]:
    """`all`, `suitable`, `unsuitable`, or names with commas. Raises ValueError."""
    if text in _SETS:
        return _SETS[text]
    names = [name for name in text.split(",") if name]
    if not names or (unknown := set(names) - set(CLASSES)):
        wrong = min(unknown) if names else text
        known = ", ".join((*_SETS, *CLASSES))
        raise ValueError(f"class {wrong!r} is unknown: choose of {known}")
    return tuple(name for name in CLASSES if name in names)


def name_of(classes: Sequence[str]) -> str:
    """The inverse of `parse_classes`, as short as it can be."""
    return next((name for name, of in _SETS.items() if of == tuple(classes)), ",".join(classes))


def pick(
    questions: Sequence[Question], classes: Sequence[str], limit: int | None
) -> list[Question]:
    """Questions of these classes, in turns through the classes, the first `limit` of them."""
    by_class = {name: [q for q in questions if q.question_class == name] for name in classes}
    longest = max((len(group) for group in by_class.values()), default=0)
    turns = [group[i] for i in range(longest) for group in by_class.values() if i < len(group)]
    return turns[:limit]
