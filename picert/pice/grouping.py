"""Which neighbouring segments one job writes, one after the other, in one place of an edge's batch.

Thin face of `picert._C.SegmentBatcher`, whose header says what is minimised; the slow twin is
tests/support/dispatch_twin.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from picert import _C


class Batcher:
    """Cuts a row of segments into groups; keeps nothing but its scratch memory."""

    def __init__(self) -> None:
        self._core = _C.SegmentBatcher()

    def group(
        self, tokens: Sequence[int], step_s: Sequence[float], read_s: float
    ) -> list[tuple[int, int]]:
        """The spans (first, past the last) of the groups that are predicted to end soonest.

        `tokens` are the segments' predicted lengths; `step_s[k - 1]` the seconds of a decoding step
        with k groups, for as many groups as there are places (where a measured value falls it
        counts as its predecessor); `read_s` is what a further group costs before its first token.
        Raises ValueError for numbers that cannot be true.
        """
        ends = self._core.group(tokens, list(accumulate(step_s, max)), read_s)
        return list(pairwise([0, *ends]))
