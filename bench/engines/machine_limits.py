"""The machine as one more engine in the round: what it can read and multiply just now."""

from __future__ import annotations

from engines.protocol import Settings
from engines.serving import Operation, serve
from picert import _C

MIN_BYTES = 1 << 20  # the least that the measurement takes


def operations(settings: Settings) -> dict[str, Operation]:
    """Two measurements on the engines' number of threads, each about half a second."""

    def bandwidth(num_bytes: int) -> float:
        """GB/s read from a buffer of that size: of caches where the working set is in them."""
        return _C.measure_bandwidth(settings.threads, max(MIN_BYTES, num_bytes))

    def peak() -> float:
        """8-bit multiply-accumulates, in 1e9 per second."""
        return _C.measure_int8_peak(settings.threads)

    return {"bandwidth": bandwidth, "peak": peak}


if __name__ == "__main__":
    serve(operations)
