"""What a launch cannot beat on a device, and how near to that its code and grid let it come.

Computed from data sheets, formulas and machine code, never measured: an estimate tells which launch
to look at first on a card, not how fast it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from picert.kernels.devices import Device, programs_per_sm
from picert.kernels.launch import Work
from picert.kernels.machine_code import MachineCode


@dataclass(frozen=True, slots=True)
class Estimate:
    """One launch on one device."""

    limit_us: float  # the slowest of memory, tensor cores and the other units, each at its peak
    bound_by: str
    occupancy: float  # warps resident, of those that the device can hold
    share: float  # of the limit that the grid lets it reach
    reason: str  # why not all of it


def estimate(work: Work, code: MachineCode, device: Device) -> Estimate:
    """Of `work` by `code` on `device`."""
    seconds = seconds_of(work, device)
    bound_by = max(seconds, key=lambda name: seconds[name])
    resident = _resident(code, device)
    share, reason = _share(work, resident, device)
    alone = seconds["tensor cores"] + max(seconds["arithmetic"], seconds["exponentials"])
    if resident == 1 and alone > seconds[bound_by]:
        # The warps of one program wait for each other at each tile, so what tensor cores do not do
        # is not hidden behind them, as it is where a second program has its turn meanwhile.
        share *= seconds[bound_by] / alone
        reason = f"one program a multiprocessor: products wait for the rest; {reason}"
    return Estimate(
        limit_us=1e6 * seconds[bound_by],
        bound_by=bound_by,
        occupancy=occupancy(code, device),
        share=share,
        reason=reason,
    )


def occupancy(code: MachineCode, device: Device) -> float:
    """Warps that a multiprocessor holds at once, of those that it could."""
    return _resident(code, device) * code.num_warps / device.max_warps_per_sm


def seconds_of(work: Work, device: Device) -> dict[str, float]:
    """What each unit takes at its peak; no code beats the longest."""
    return {
        "memory": work.bytes / device.memory_bytes_per_s,
        "tensor cores": work.tensor_flops / device.tensor_flops,
        "arithmetic": work.flops / device.flops,
        "exponentials": work.exponentials / device.exponentials,
    }


def _resident(code: MachineCode, device: Device) -> int:
    return programs_per_sm(
        device,
        num_warps=code.num_warps,
        registers=code.registers,
        shared_bytes=code.shared_bytes,
    )


def _share(work: Work, resident: int, device: Device) -> tuple[float, str]:
    """Of the device that the grid keeps busy, and what leaves the rest idle."""
    slots = resident * device.num_sms
    if work.num_programs < device.num_sms:
        busy = work.num_programs / device.num_sms
        return busy, f"{work.num_programs} programs for {device.num_sms} multiprocessors"
    warps = work.num_programs * work.config.num_warps / device.num_sms
    if work.num_programs < slots:
        busy = min(1.0, warps / work.config.warps_per_sm)
        return busy, "full" if busy == 1.0 else f"{warps:.0f} warps a multiprocessor"
    waves = -(-work.num_programs // slots)
    busy = work.num_programs / (waves * slots)
    return busy, f"the last of {waves} waves is not full" if busy < 1.0 else "full"
