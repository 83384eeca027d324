"""The GPU as one more engine in the round: what it can copy and multiply just now."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engines.protocol import Settings
from engines.serving import Operation, serve

MIN_BYTES = 1 << 28  # more than any L2 cache, so that it is the memory that is measured
SIDE = 8192  # of the matrices whose product tells the peak
REPEATS = 20


def operations(settings: Settings) -> dict[str, Operation]:
    """Two measurements on the engines' device."""
    device = torch.device(settings.device)

    def bandwidth(num_bytes: int) -> float:
        """GB/s read and written by a copy of a buffer of that size."""
        source = torch.zeros(max(MIN_BYTES, num_bytes), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return 2 * source.numel() / 1e9 / seconds_of(lambda: target.copy_(source))

    def peak() -> float:
        """fp16 multiply-accumulates of a large product, in 1e9 per second."""
        left = torch.randn((SIDE, SIDE), dtype=torch.float16, device=device)
        return float(SIDE) ** 3 / 1e9 / seconds_of(lambda: left @ left)

    return {"bandwidth": bandwidth, "peak": peak}


def seconds_of(launch: Callable[[], object]) -> float:
    """Of one launch, the mean of some after one that is not timed."""
    launch()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPEATS):
        launch()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / REPEATS


if __name__ == "__main__":
    serve(operations)
