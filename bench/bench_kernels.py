"""Kernels: what each launch cannot beat on a GPU, how long it takes on one, and the CPU's.

    python bench/bench_kernels.py --static --device h100
    python bench/bench_kernels.py --device cuda --json
    python bench/bench_kernels.py --device cpu --op linear --threads 2

`--static` compiles every launch that real models make and estimates it from data sheets and machine
code; what else the registry holds follows without a limit, so that each configuration has a line.
No GPU is needed, and nothing is timed. `--device cuda` times the same launches on the GPU at hand,
after checking what they give: captured passes over inputs that are larger than the L2 cache,
between events, beside FlashInfer and torch where they are installed. `--device cpu` times the
operations of a step on the CPU (bench/cpu_operations.py) beside what the machine reached just then;
`--clock thread` counts processor time, for when others work on it too.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from card import NoCard, find_card, time_launches
from cpu_operations import MODELS as CPU_MODELS
from cpu_operations import OPERATIONS
from cpu_operations import Rig as CpuRig
from cpu_timing import CpuLimits, cpu_line, cpu_rows
from kernel_timing import Rig, timed_rows
from problem import Draw

from picert.errors import ConfigError
from picert.kernels.devices import DEVICES, Device
from picert.kernels.launch import Kernel, ModelShape, StepShape, Work
from picert.kernels.machine_code import MachineCode, compile_kernel
from picert.kernels.registry import KERNELS
from picert.kernels.roofline import Estimate, estimate, occupancy

MODELS = (  # name, hidden, intermediate, heads, K/V heads, head size, vocabulary, layers
    ModelShape("Llama-3-8B", 4096, 14336, 32, 8, 128, 128256, 32),
    ModelShape("Llama-3-70B", 8192, 28672, 64, 8, 128, 128256, 80),
    ModelShape("Qwen2.5-1.5B", 1536, 8960, 12, 2, 128, 151936, 28),
    ModelShape("Qwen2.5-7B", 3584, 18944, 28, 4, 128, 152064, 28),
    ModelShape("Qwen2.5-72B", 8192, 29568, 64, 8, 128, 152064, 80),
)
STEPS = (
    *(StepShape(batch, 1, context) for batch in (1, 16, 64, 256) for context in (128, 4096, 32768)),
    *(StepShape(1, chunk, context) for chunk, context in ((512, 512), (2048, 2048), (2048, 32768))),
)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
Launch = tuple[Kernel, ModelShape, StepShape, Work]


def launches(num_sms: int) -> Iterator[Launch]:
    """Every different launch of a kernel on a device of so many multiprocessors: where the context
    does not matter, the shortest one.
    """
    for kernel in KERNELS:
        for model in MODELS:
            seen: list[Work] = []
            for step in STEPS:
                work = kernel.work(model, step, num_sms)
                if work is not None and work not in seen:
                    seen.append(work)
                    yield kernel, model, step, work


@cache
def code_of(kernel_name: str, config_name: str, capability: int) -> MachineCode:
    """In the first dtype of the kernel."""
    (kernel,) = (kernel for kernel in KERNELS if kernel.name == kernel_name)
    return compile_kernel(kernel, kernel.config(config_name), kernel.dtypes[0], capability)


def code_row(code: MachineCode, device: Device) -> dict[str, object]:
    """What is printed of a configuration, as JSON has it."""
    return {
        "kernel": code.kernel,
        "config": code.config,
        "device": device.name,
        "registers": code.registers,
        "spills": code.spills,
        "shared_bytes": code.shared_bytes,
        "occupancy": round(occupancy(code, device), 3),
        "tensor_core_instructions": code.tensor_core_instructions,
        "wgmma": code.count("HGMMA"),
        "wide_loads": code.wide_loads,
    }


def row(launch: Launch, code: MachineCode, result: Estimate, device: Device) -> dict[str, object]:
    """The same of one launch."""
    _, model, step, work = launch
    return {
        **code_row(code, device),
        "model": model.name,
        "batch": step.batch,
        "query_len": step.query_len,
        "context": step.context,
        "bytes": work.bytes,
        "flops": work.tensor_flops + work.flops,
        "exponentials": work.exponentials,
        "programs": work.num_programs,
        "limit_us": round(result.limit_us, 3),
        "bound_by": result.bound_by,
        "share": round(result.share, 3),
        "reason": result.reason,
    }


NOT_LAUNCHED = "none of these models launches it"
HEADER = (
    f"{'kernel':23} {'config':14} {'model':13} {'batch x new @ context':>21} {'MB':>9} "
    f"{'GFLOP':>9} {'limit us':>9} {'bound by':12} {'regs':>4} {'smem':>6} {'occ':>4} {'share':>5}"
    "  why not all"
)


def line(r: dict[str, object], work: Work) -> str:
    """The same for people."""
    step = f"{r['batch']} x {r['query_len']} @ {r['context']}"
    flops = (work.tensor_flops + work.flops) / 1e9
    return (
        f"{r['kernel']:23} {r['config']:14} {r['model']:13} {step:>21} {work.bytes / 1e6:9.2f} "
        f"{flops:9.2f} {r['limit_us']:9.2f} {r['bound_by']:12} {r['registers']:4} "
        f"{r['shared_bytes']:6} {r['occupancy']:4.2f} {r['share']:5.2f}  {r['reason']}"
    )


def idle_row(code: MachineCode, device: Device) -> dict[str, object]:
    """Of a configuration that no launch of the table has, so that there is nothing to limit it."""
    launch = {**dict.fromkeys(("limit_us", "bound_by", "share")), "reason": NOT_LAUNCHED}
    return {**code_row(code, device), **launch}


def idle_line(r: dict[str, object]) -> str:
    """The same for people."""
    return (
        f"{r['kernel']:23} {r['config']:14} {'':80} {r['registers']:4} {r['shared_bytes']:6} "
        f"{r['occupancy']:4.2f} {'':5}  {r['reason']}"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--static", action="store_true", help="nothing is timed, no GPU is needed")
    parser.add_argument("--device", choices=[*sorted(DEVICES), "cuda", "cpu"], required=True)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float16", help="on a GPU")
    parser.add_argument("--kernel", choices=[kernel.name for kernel in KERNELS], help="of the GPU")
    parser.add_argument("--op", choices=[*OPERATIONS], help="of the CPU")
    parser.add_argument("--model", help="one of those that the device has figures for")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", default="", help="of the CPU: scalar, avx2, avx2_vnni, avx512")
    parser.add_argument("--clock", choices=["wall", "thread"], default="wall", help="of the CPU")
    parser.add_argument("--json", action="store_true", help="one line for each launch")
    options = parser.parse_args()
    if options.static != (options.device in DEVICES):
        parser.error(
            "--static goes with a100, h100 or orin, what is timed with --device cuda or cpu"
        )
    if options.op is not None and options.device != "cpu":
        parser.error("--op goes with --device cpu: kernels of a GPU are chosen by --kernel")
    if options.kernel is not None and options.device == "cpu":
        parser.error("--kernel goes with a GPU: operations of the CPU are chosen by --op")
    names = [model.name for model in (CPU_MODELS if options.device == "cpu" else MODELS)]
    if options.model not in (None, *names):
        parser.error(f"model {options.model!r} is unknown: choose of {', '.join(names)}")
    return options


def wanted_launches(options: argparse.Namespace, num_sms: int) -> Iterator[Launch]:
    """Those of the kernel and the model that were asked for, if any were."""
    for launch in launches(num_sms):
        if options.kernel in (None, launch[0].name) and options.model in (None, launch[1].name):
            yield launch


def idle_configs(kernel_name: str | None, seen: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(kernel, configuration) of that kernel, of all if None, that are not among those seen."""
    for kernel in KERNELS:
        for config in kernel.configs:
            name = kernel.name, config.name
            if kernel_name in (None, kernel.name) and name not in seen:
                yield name


def estimate_all(options: argparse.Namespace) -> None:
    """Print what each launch cannot beat."""
    device = DEVICES[options.device]
    if not options.json:
        print(HEADER)
    seen: set[tuple[str, str]] = set()
    for launch in wanted_launches(options, device.num_sms):
        kernel, _, _, work = launch
        seen.add((kernel.name, work.config.name))
        code = code_of(kernel.name, work.config.name, device.capability)
        found = row(launch, code, estimate(work, code, device), device)
        print(json.dumps(found) if options.json else line(found, work), flush=True)
    if options.model is not None:
        return
    for name, config in idle_configs(options.kernel, seen):
        found = idle_row(code_of(name, config, device.capability), device)
        print(json.dumps(found) if options.json else idle_line(found), flush=True)


def time_all(options: argparse.Namespace) -> None:
    """Print how long each launch takes on the card. Raises NoCard."""
    card = find_card()
    draw = Draw.of(torch.device("cuda"), DTYPES[options.dtype], seed=0)
    rows = timed_rows(wanted_launches(options, card.num_sms), Rig(card, draw, time_launches))
    for found in rows:
        print(json.dumps(found) if options.json else timed_line(found), flush=True)


def time_cpu(options: argparse.Namespace) -> None:
    """Print how long the operations of a step take on this machine."""
    models = [model for model in CPU_MODELS if options.model in (None, model.name)]
    names = [name for name in OPERATIONS if options.op in (None, name)]
    rig = CpuRig(options.threads, options.isa, options.clock)
    for found in cpu_rows(names, models, rig, CpuLimits(rig.threads, rig.clock)):
        print(json.dumps(found) if options.json else cpu_line(found), flush=True)


def timed_line(r: dict[str, Any]) -> str:
    """A timed launch for people."""
    step = f"{r['batch']} x {r['query_len']} @ {r['context']}"
    name = f"{r['kernel']:23} {r['config']:14} {r['model']:13} {step:>21}"
    if "skipped" in r:
        return f"{name}  skipped: {r['skipped']}"
    words = [
        f"{r['p50_us']:9.2f} us (p20 {r['p20_us']}, p80 {r['p80_us']})",
        f"{r['gb_per_s']} GB/s, {r['tflop_per_s']} TFLOP/s",
    ]
    if "share_of_limit" in r:
        words.append(f"{r['share_of_limit']:.0%} of {r['bound_by']}")
    words += [f"{peer} {us}" for peer, us in r["peers"].items()]
    return f"{name}  {', '.join(words)}"


def main() -> None:
    """Print the table."""
    options = parse()
    run = estimate_all if options.static else time_cpu if options.device == "cpu" else time_all
    try:
        run(options)
    except (NoCard, ConfigError, ValueError) as error:
        raise SystemExit(f"picert: {error}") from None


if __name__ == "__main__":
    main()
