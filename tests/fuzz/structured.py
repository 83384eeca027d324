"""The targets of fuzz.py, with inputs that hypothesis writes by the rules of each form.

    python tests/fuzz/structured.py --inputs 100000 --seed 3
    python tests/fuzz/structured.py --targets template

A find is made as small as it goes before it is printed; the seed repeats it.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import fuzz
import hypothesis
from hypothesis import HealthCheck, Phase, errors, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from structures import STRUCTURES

BATCH = 5000  # hypothesis remembers what it has tried


class Find(Exception):
    """An input ended otherwise than it may."""


@st.composite
def with_accidents(draw: DrawFn, whole: SearchStrategy[bytes]) -> bytes:
    """One in four gets accidents that know nothing of its form."""
    data = draw(whole)
    accident = draw(st.none() | st.none() | st.none() | st.integers(0, 2**32))
    return data if accident is None else fuzz.damaged(data, random.Random(accident))


def explore(target: fuzz.Target, num_inputs: int, seed: int) -> tuple[int, str | None]:
    """How many inputs were tried, of so many that are wanted, and the first find in words."""
    strategy, num_tried = with_accidents(STRUCTURES[target.name]()), 0
    for batch in range(-(-num_inputs // BATCH)):
        size = min(BATCH, num_inputs - batch * BATCH)
        tried, find = _batch(target, strategy, size, 10_000 * seed + batch)
        num_tried += tried
        if find is not None:
            return num_tried, f"{target.name}, seed {seed}, batch {batch}: {find}"
    return num_tried, None


def _batch(
    target: fuzz.Target, strategy: SearchStrategy[bytes], num_inputs: int, seed: int
) -> tuple[int, str | None]:
    num_tried = 0
    problems: list[str] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=num_inputs,
        database=None,
        deadline=None,  # the kernel's timer it is
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def read(data: bytes) -> None:
        nonlocal num_tried
        num_tried += 1
        if problem := fuzz.problem_of(target, data):
            problems.append(f"{problem}\n{data!r}")
            raise Find

    with fuzz.bounded():
        try:
            read()
        except (Find, errors.Flaky):  # the smallest comes last
            return num_tried, problems[-1]
    return num_tried, None


def main() -> int:
    """Try all that is asked for; 1 if there was a find."""
    wanted = fuzz.parser(__doc__).parse_args()
    finds = 0
    with tempfile.TemporaryDirectory() as folder:
        makers = fuzz.targets(Path(folder))
        for name in wanted.targets.split(","):
            began = time.monotonic()
            num_tried, find = explore(makers[name](), wanted.inputs, wanted.seed)
            finds += find is not None
            outcome = find or f"{name}: {num_tried:,} inputs, no find"
            sys.stdout.write(f"{outcome}, {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
