"""Segments -> what each job holds: one segment for now, so that every edge slot can work."""

from __future__ import annotations

from collections.abc import Sequence

from picert.messages import Segment


def group(segments: Sequence[Segment]) -> list[tuple[Segment, ...]]:
    """Neighbouring segments that one job shall write, in order; each segment is in one group."""
    return [(segment,) for segment in segments]
