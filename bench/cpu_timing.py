"""Rows of the CPU's operations: times, rates, and the share of what the machine reached in the same
run: reading as much from wherever so much lies, and multiplying in the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cpu_operations import OPERATIONS, Arithmetic, CpuModel, Measured, Rig
from machine import environment

from picert import _C

SMALLEST, LARGEST = 1 << 20, 1 << 28  # bytes of which reading is measured


@dataclass(slots=True)
class CpuLimits:
    """What the machine reached, measured when first asked for.

    By the clock of threads, one thread's figure counts once for each: several would not all run.
    """

    threads: int
    clock: str
    _gb_per_s: dict[int, float] = field(default_factory=dict)  # by working set, a power of two
    _gmac_per_s: dict[str, float] = field(default_factory=dict)

    def gb_per_s(self, working_set: int) -> float:
        """Read from a buffer of about that size: from a cache if it fits into one."""
        size = min(LARGEST, max(SMALLEST, 1 << (working_set - 1).bit_length()))
        if size not in self._gb_per_s:
            self._gb_per_s[size] = self._of_all(lambda n: _C.measure_bandwidth(n, size))
        return self._gb_per_s[size]

    def gmac_per_s(self, arithmetic: Arithmetic) -> float:
        """Multiply-accumulates, in 1e9 per second."""
        if arithmetic not in self._gmac_per_s:
            measure = _C.measure_int8_peak if arithmetic == "int8" else _C.measure_fp32_peak
            self._gmac_per_s[arithmetic] = self._of_all(measure)
        return self._gmac_per_s[arithmetic]

    def _of_all(self, measure: Callable[[int], float]) -> float:
        if self.clock == "wall":
            return measure(self.threads)
        return self.threads * measure(1)


def cpu_rows(
    operations: Iterable[str], models: Iterable[CpuModel], rig: Rig, limits: CpuLimits
) -> Iterator[dict[str, Any]]:
    """One for each operation, model and size; a wrong result has the reason in place of times."""
    same = environment()
    models = [*models]
    for name in operations:
        for model in models[:1] if name == "barrier" else models:
            for measured in OPERATIONS[name](model, rig):
                head = {
                    **{"bench": "kernels", "kernel": name, "config": measured.config},
                    **{"device": "cpu", "model": "" if name == "barrier" else model.name},
                    **{"rows": measured.rows, "threads": rig.threads},
                    **{"isa": rig.isa or _C.best_isa(), "clock": measured.clock or rig.clock},
                }
                yield {**head, **row_of(measured, limits), **same}


def row_of(measured: Measured, limits: CpuLimits) -> dict[str, Any]:
    """Times in microseconds, rates at the median, and the limit that binds with its share."""
    if measured.error is not None:
        return {"skipped": measured.error}
    p20, p50, p80 = (1e6 * float(q) for q in np.percentile(measured.seconds, [20, 50, 80]))
    row: dict[str, Any] = {
        **{"bytes": measured.num_bytes, "macs": measured.num_macs},
        **{"p20_us": round(p20, 3), "p50_us": round(p50, 3), "p80_us": round(p80, 3)},
    }
    limits_us = {}
    if measured.num_bytes:
        gb_per_s = limits.gb_per_s(measured.working_set)
        limits_us["memory"] = measured.num_bytes / gb_per_s / 1e3
        row |= {"gb_per_s": round(measured.num_bytes / p50 / 1e3, 2)}
        row |= {"read_gb_per_s": round(gb_per_s, 1)}
    if measured.arithmetic is not None:
        gmac_per_s = limits.gmac_per_s(measured.arithmetic)
        limits_us[measured.arithmetic] = measured.num_macs / gmac_per_s / 1e3
        row |= {"gmac_per_s": round(measured.num_macs / p50 / 1e3, 2)}
        row |= {"peak_gmac_per_s": round(gmac_per_s, 1)}
    if limits_us:
        bound_by = max(limits_us, key=lambda unit: limits_us[unit])
        row |= {"limit_us": round(limits_us[bound_by], 3), "bound_by": bound_by}
        row["share_of_limit"] = round(limits_us[bound_by] / p50, 3)
    return row


def cpu_line(r: dict[str, Any]) -> str:
    """The same for people."""
    name = f"{r['kernel']:14} {r['model']:18} {r['config']:28} x {r['rows']:<4}"
    if "skipped" in r:
        return f"{name} {r['skipped']}"
    words = [f"{r['p50_us']:10.2f} us (p20 {r['p20_us']}, p80 {r['p80_us']})"]
    if "gb_per_s" in r:
        words.append(f"{r['gb_per_s']} GB/s")
    if "gmac_per_s" in r:
        words.append(f"{r['gmac_per_s']} GMAC/s")
    if "share_of_limit" in r:
        words.append(f"{r['share_of_limit']:.0%} of {r['bound_by']}")
    return f"{name} {', '.join(words)}"
