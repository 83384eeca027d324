"""LaunchTable: warps and depths of pipelines that were measured on a card, read from a file.

`PICERT_LAUNCH_TABLE` names it when a process starts; without it every launch keeps what its
kernel's file chose. It is JSON, by kernel and configuration, as `bench_kernels.py --json` spells
them:

    {"device": "NVIDIA H100 80GB HBM3",
     "kernels": {"quant_linear_tiled": {"4_rows128": {"num_warps": 8, "num_stages": 4}}}}

Only these two numbers can be set: they change how fast a kernel is and not what it means. The
tests of meaning and machine code, run with the same variable, prove what the table launches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from picert.errors import ConfigError

VARIABLE = "PICERT_LAUNCH_TABLE"
_WARPS = (1, 2, 4, 8, 16)
_STAGES = tuple(range(1, 9))


@dataclass(frozen=True, slots=True)
class Setting:
    """How one configuration is launched."""

    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class LaunchTable:
    """Settings by kernel and configuration, and the card that they were measured on."""

    path: str = ""
    device: str = ""  # as the driver names it; "" of the empty table
    settings: Mapping[str, Mapping[str, Setting]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def of(self, kernel: str, configs: Iterable[str]) -> Mapping[str, Setting]:
        """Of a kernel that has these configurations. Raises ConfigError for any other."""
        found = self.settings.get(kernel, {})
        _refuse_unknown(self.path, f"configuration of {kernel}", found, configs)
        return found

    def check_kernels(self, kernels: Iterable[str]) -> None:
        """Raises ConfigError if it names a kernel that is none of these."""
        _refuse_unknown(self.path, "kernel", self.settings, kernels)

    def check_device(self, device: str) -> None:
        """Raises ConfigError if it was measured on another card."""
        if self.device not in ("", device):
            raise ConfigError(
                f"{self.path} was measured on {self.device}, this is {device}: measure it here or "
                f"unset {VARIABLE}"
            )


def read_table(path: str | None) -> LaunchTable:
    """The table of a file, an empty one for None. Raises ConfigError where it is not one."""
    if not path:
        return LaunchTable()
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"launch table {path}: {error}") from None
    _require(path, given, {"device": str, "kernels": dict}, "the table")
    kernels = {
        kernel: {
            config: _setting(path, f"{kernel} {config}", setting)
            for config, setting in _require(path, configs, None, kernel).items()
        }
        for kernel, configs in given["kernels"].items()
    }
    return LaunchTable(path, given["device"], MappingProxyType(kernels))


def _setting(path: str, where: str, given: Any) -> Setting:
    _require(path, given, {"num_warps": int, "num_stages": int}, where)
    for name, allowed in (("num_warps", _WARPS), ("num_stages", _STAGES)):
        if given[name] not in allowed:
            raise ConfigError(
                f"launch table {path}: {name} of {where} is {given[name]}, one of "
                f"{', '.join(map(str, allowed))} wanted"
            )
    return Setting(**given)


def _require(path: str, given: Any, fields: dict[str, type] | None, where: str) -> dict[str, Any]:
    """`given` as an object, with exactly these fields if any are named. Raises ConfigError."""
    wanted = "an object" if fields is None else f"an object of {' and '.join(fields)}"
    if not isinstance(given, dict) or (fields is not None and given.keys() != fields.keys()):
        raise ConfigError(f"launch table {path}: {where} must be {wanted}")
    for name, kind in (fields or {}).items():
        if type(given[name]) is not kind:
            raise ConfigError(
                f"launch table {path}: {name} of {where} is {given[name]!r}, {kind.__name__} wanted"
            )
    return given


def _refuse_unknown(path: str, what: str, given: Iterable[str], known: Iterable[str]) -> None:
    names = [*known]
    for name in given:
        if name not in names:
            raise ConfigError(
                f"launch table {path} names the {what} {name}, which there is not: one of "
                f"{', '.join(names)}"
            )


TABLE = read_table(os.environ.get(VARIABLE))  # of this process, for good
