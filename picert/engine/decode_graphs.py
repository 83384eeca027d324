"""DecodeGraphs: which captured decode step serves a batch, and how long it is kept.

Knows no device: what capturing means is a function that it is given.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from picert.kernels.shared_prefix import Bounds

GraphT = TypeVar("GraphT")

# A step of n sequences runs as the next of these: at most a quarter of its rows are padding, from
# 8 on.
_SEQS = (1, 2, 4, *range(8, 64, 8), *range(64, 257, 16))
_SHORTEST_CONTEXT = 512  # tokens; further sizes double


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """What is fixed when a decode step is captured."""

    num_seqs: int
    context_len: int  # tokens of the longest sequence, at most
    shared: Bounds | None = None  # of what sequences begin with in common, at most


class DecodeGraphs(Generic[GraphT]):
    """Captured steps by shape, made when first wanted; the longest unused goes first."""

    def __init__(
        self,
        capture: Callable[[DecodeShape], GraphT],
        *,
        max_context_len: int,
        max_graphs: int = 64,
    ) -> None:
        self._capture = capture
        self._max_context_len = max_context_len
        self._max_graphs = max_graphs
        self._graphs: OrderedDict[DecodeShape, GraphT] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def shape_for(
        self, num_seqs: int, context_len: int, shared: Bounds | None = None
    ) -> DecodeShape | None:
        """The shape that such a step is filled up to; None where there is none so large."""
        at = bisect_left(_SEQS, num_seqs)
        if at == len(_SEQS) or context_len > self._max_context_len:
            return None
        room = _SHORTEST_CONTEXT
        while room < context_len:
            room *= 2
        room = min(room, self._max_context_len)
        return DecodeShape(_SEQS[at], room, None if shared is None else _doubling(shared))

    def graph(self, shape: DecodeShape) -> GraphT:
        """The captured step of that shape; raises what capturing raises."""
        if shape not in self._graphs:
            if len(self._graphs) == self._max_graphs:
                self._graphs.popitem(last=False)  # its memory serves the new one
            self._graphs[shape] = self._capture(shape)
        self._graphs.move_to_end(shape)
        return self._graphs[shape]

    def clear(self) -> None:
        """Forget all: what they were captured over is not there any more."""
        self._graphs.clear()


def _doubling(bounds: Bounds) -> Bounds:
    """The next that have powers of two alone."""
    return Bounds(
        **{f.name: 1 << (getattr(bounds, f.name) - 1).bit_length() for f in fields(bounds)}
    )
