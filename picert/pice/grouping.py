"""Segments -> what each job holds. One segment per job for now, so that every edge slot can work at once."""

from __future__ import annotations

from collections.abc import Sequence

from picert.messages import Segment


def group(segments: Sequence[Segment]) -> list[tuple[Segment, ...]]:
    """Neighbouring segments that one job shall write, in order; every segment is in exactly one group."""
    return [(segment,) for segment in segments]
