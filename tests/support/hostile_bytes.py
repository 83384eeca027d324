"""Hypothesis strategies that damage a sound file, and the promise that every loader must keep."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from hypothesis import strategies as st

from picert.errors import ModelError
from picert.models.weights import Checkpoint, load_checkpoint

MAX_PEAK_BYTES = 32 << 20  # far above what a tiny model takes, far below what a lie asks for

_NASTY_NUMBERS = (0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_PATCHES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([n.to_bytes(8, "little") for n in _NASTY_NUMBERS]),
    st.sampled_from([n.to_bytes(4, "little") for n in _NASTY_NUMBERS if n < 2**32]),
)


@st.composite
def damaged(draw: st.DrawFn, sound: bytes, header_bytes: int) -> bytes:
    """`sound` with a few patches in its header, and perhaps cut short or with bytes inserted."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, header_bytes - 1))
        patch = draw(_PATCHES)
        width = len(patch) if draw(st.booleans()) else 0  # 0 inserts and shifts all that follows
        data[at : at + width] = patch
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def load_or_refuse(path: Path) -> Checkpoint | None:
    """Load `path`; None when it is refused as it should be. Fails for any other outcome."""
    tracemalloc.start()
    try:
        outcome = _load(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES, f"{peak} bytes at the peak"
    if isinstance(outcome, Checkpoint):
        return outcome
    assert "\n" not in outcome.message, "an error is one line"
    assert len(outcome.message) < 1000
    return None


def _load(path: Path) -> Checkpoint | ModelError:
    try:
        return load_checkpoint(path)
    except ModelError as error:
        return error
