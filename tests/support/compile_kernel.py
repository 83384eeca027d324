"""A program, run without TRITON_INTERPRET: compiles all configurations of one kernel, as JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from dataclasses import asdict
from itertools import product

from picert.kernels.devices import DEVICES
from picert.kernels.launch import Config, Kernel
from picert.kernels.machine_code import MachineCode, compile_kernel
from picert.kernels.registry import KERNELS

Job = tuple[Config, str, int]


def code_of(job: Job) -> MachineCode:
    """Of one configuration, dtype and compute capability of the kernel on the command line."""
    return compile_kernel(KERNEL, *job)


def jobs(kernel: Kernel) -> list[Job]:
    """All of them."""
    capabilities = [device.capability for device in DEVICES.values()]
    return list(product(kernel.configs, kernel.dtypes, capabilities))


if __name__ == "__main__":
    (KERNEL,) = (kernel for kernel in KERNELS if kernel.name == sys.argv[1])
    # Forked, so that a worker need not import torch and triton again: they take seconds.
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        codes = pool.map(code_of, jobs(KERNEL), chunksize=1)
    json.dump([asdict(code) for code in codes], sys.stdout)
