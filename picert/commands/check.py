"""`picert check`: what this machine is, what it allows (measured), which runners work, which models
are here.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from picert import _C, __version__, hub
from picert.engine.machine import available_memory, usable_cores

_BUFFER_BYTES = 256 << 20  # larger than any cache, so that the memory is measured


def run(flags: argparse.Namespace) -> int:
    """Measure for two seconds or so, and tell."""
    found = _find(flags.threads or usable_cores())
    if flags.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{name:<10} {told}\n" for name, told in _lines(found)))
    return 0


def _find(threads: int) -> dict[str, Any]:
    counts = sorted({1, threads})
    return {
        "picert": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "isa": _C.best_isa(),
        "supported_isas": list(_C.supported_isas()),
        "usable_cores": usable_cores(),
        "available_memory_bytes": available_memory(),
        "limits": [_limits(count) for count in counts],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "runners": _runners(),
        "models": [entry.name for entry in hub.catalogue() if entry.installed],
    }


def _limits(threads: int) -> dict[str, float]:
    return {
        "threads": threads,
        "memory_gb_per_s": round(_C.measure_bandwidth(threads, _BUFFER_BYTES), 1),
        "int8_gmac_per_s": round(_C.measure_int8_peak(threads), 1),
        "fp32_gmac_per_s": round(_C.measure_fp32_peak(threads), 1),
    }


def _runners() -> dict[str, str]:
    """What each would run on."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {"native": f"cpu, {_C.best_isa()}", "torch": " or ".join(devices)}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people."""
    threads = "threads" if found["usable_cores"] > 1 else "thread"
    limits = [
        (
            f"{limit['threads']} thread" + ("s" if limit["threads"] > 1 else ""),
            f"memory {limit['memory_gb_per_s']:.1f} GB/s, int8 {limit['int8_gmac_per_s']:.0f} "
            f"GMAC/s, fp32 {limit['fp32_gmac_per_s']:.0f} GMAC/s",
        )
        for limit in found["limits"]
    ]
    return [
        ("picert", f"{found['picert']}, Python {found['python']}, torch {found['torch']}"),
        ("system", found["system"]),
        ("cpu", f"{found['cpu']}, {found['usable_cores']} {threads} usable"),
        ("isa", f"{found['isa']} (of {', '.join(found['supported_isas'])})"),
        ("memory", f"{found['available_memory_bytes'] / 1e9:.1f} GB available"),
        *limits,
        ("gpu", found["gpu"] or "none"),
        *(("runner", f"{name} on {where}") for name, where in found["runners"].items()),
        ("models", ", ".join(found["models"]) or "none yet: picert pull NAME"),
    ]
