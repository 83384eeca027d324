"""Hypothesis strategies that damage a sound file, and the promise that every loader must keep."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to a sound file. Small, so that a failing example can be read."""

    patches: tuple[tuple[int, bytes, bool], ...]  # where, what, and whether it is inserted
    kept: float  # of the file's length

    def of(self, sound: bytes, header_bytes: int) -> bytes:
        """The damaged file; patches fall within its first `header_bytes`."""
        data = bytearray(sound)
        for at, patch, is_inserted in self.patches:
            begin = at % header_bytes
            data[begin : begin if is_inserted else begin + len(patch)] = patch
        return bytes(data[: int(len(data) * self.kept)])


DAMAGE = st.builds(
    Damage,
    patches=st.lists(
        st.tuples(st.integers(0, 2**20), _PATCHES, st.booleans()), min_size=1, max_size=4
    ).map(tuple),
    kept=st.one_of(st.just(1.0), st.just(1.0), st.floats(0.0, 1.0)),
)


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
