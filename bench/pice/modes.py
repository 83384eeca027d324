"""Modes: pice, the baselines it is measured against, and pice with each part switched off, or on
where it is off by default.

Each is the same runtime; a mode is flags of picert-cloud.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import get_args

from picert.config import Mode, Part

BASELINES = tuple(mode for mode in get_args(Mode) if mode != "pice")
WITHOUT: Mapping[str, str] = MappingProxyType(
    {f"pice_no_{part}": f"--no-{part.replace('_', '-')}" for part in get_args(Part)}
)
WITH: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"pice_with_cloud_check": ("--w-cloud-check", "0.1")}
)
MODES = (*BASELINES, "pice", *WITHOUT, *WITH)
_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"baselines": (*BASELINES, "pice"), "ablations": ("pice", *WITHOUT, *WITH)}
)


def flags_of(mode: str) -> tuple[str, ...]:
    """What makes picert-cloud serve in this mode."""
    if mode in WITHOUT:
        return ("--mode", "pice", WITHOUT[mode])
    return ("--mode", "pice", *WITH[mode]) if mode in WITH else ("--mode", mode)


def parse_modes(text: str) -> tuple[str, ...]:
    """Names with commas, each once; `baselines` and `ablations` stand for several. Raises
    ValueError."""
    names = [name for word in text.split(",") if word for name in _SETS.get(word, (word,))]
    unknown = sorted(set(names) - set(MODES))
    if unknown or not names:
        wrong = unknown[0] if unknown else text
        raise ValueError(f"mode {wrong!r} is unknown: choose of {', '.join((*_SETS, *MODES))}")
    return tuple(dict.fromkeys(names))
