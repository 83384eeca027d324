"""The GPU at hand: whether there is one, what its data sheet says, and how long launches take."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from picert.engine.streams import CudaStream
from picert.kernels.devices import DEVICES, Device

MAX_SETS = 256  # of inputs
SETS_OF_CACHE = 3  # the inputs of all sets are so many times the L2 cache
PASSES = 30  # timed, after three that are not


class NoCard(Exception):
    """Nothing can be timed here; says why, in a line."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU."""

    name: str
    l2_bytes: int
    num_sms: int
    sheet: Device | None  # None for a card whose data sheet is not known

    def num_sets(self, num_bytes: int) -> int:
        """Sets of inputs to go through, so that none is still in the L2 cache at its next turn."""
        return max(1, min(MAX_SETS, -(-SETS_OF_CACHE * self.l2_bytes // num_bytes)))


def find_card() -> Card:
    """The first. Raises NoCard."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise NoCard("kernels are interpreted here: unset TRITON_INTERPRET to time them")
    if not torch.cuda.is_available():
        raise NoCard("no CUDA device is visible: only --static and --device cpu work without one")
    about = torch.cuda.get_device_properties(0)
    return Card(
        about.name,
        int(about.L2_cache_size),
        int(about.multi_processor_count),
        sheet_of(about.name),
    )


def sheet_of(name: str) -> Device | None:
    """The data sheet of a card by the name that its driver gives it."""
    words = name.lower().replace("-", " ").split()
    return next((DEVICES[word] for word in words if word in DEVICES), None)


def time_launches(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Microseconds of one of `runs`, for each of some passes over all of them.

    A pass is one captured graph, so that the host's launches are not what is timed.
    """

    def all_runs() -> None:
        for run in runs:
            run()

    replay = CudaStream().capture(all_runs)
    for _ in range(3):
        replay()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(PASSES)]
    for begin, end in events:
        begin.record()
        replay()
        end.record()
    torch.cuda.synchronize()
    return [1e3 * begin.elapsed_time(end) / len(runs) for begin, end in events]
