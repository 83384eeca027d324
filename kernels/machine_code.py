"""What the compiler makes of a kernel for a GPU that need not be there.

Must run where TRITON_INTERPRET is not set. The disassembler comes with triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from picert.errors import ConfigError
from picert.kernels.launch import Config, Kernel

_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
_WARP_THREADS = 32
_TIMEOUT_S = 300  # a third of a second, on a machine that has nothing else to do


@dataclass(frozen=True, slots=True)
class MachineCode:
    """One kernel in one configuration, compiled for one compute capability."""

    kernel: str
    config: str
    dtype: str
    capability: int  # 90 for sm_90
    num_warps: int
    registers: int  # of a thread
    stack_bytes: int  # of a thread, in local memory
    shared_bytes: int  # of a program
    instructions: Mapping[str, int]  # opcode with its modifiers -> how often it stands there

    def count(self, *prefixes: str) -> int:
        """Instructions whose opcode begins with one of `prefixes`."""
        return sum(n for opcode, n in self.instructions.items() if opcode.startswith(prefixes))

    @property
    def spills(self) -> int:
        """Instructions that move registers to and from local memory."""
        return self.count("STL", "LDL")

    @property
    def wide_loads(self) -> int:
        """Global loads of 16 bytes a thread, through registers or straight into shared memory."""
        wide = ("LDG", "LDGSTS")
        return sum(
            n
            for opcode, n in self.instructions.items()
            if opcode.split(".")[0] in wide and "128" in opcode.split(".")
        )

    @property
    def tensor_core_instructions(self) -> int:
        """Of a warp (HMMA) or of a warp group (HGMMA, which is wgmma)."""
        return self.count("HMMA", "HGMMA", "IMMA", "IGMMA")


def compile_kernel(kernel: Kernel, config: Config, dtype: str, capability: int) -> MachineCode:
    """Compile ahead of time and disassemble. Raises ConfigError under the interpreter."""
    if not isinstance(kernel.function, triton.JITFunction):
        raise ConfigError("kernels are interpreted here: unset TRITON_INTERPRET to compile them")
    compiled = triton.compile(
        source_of(kernel, config, dtype),
        target=GPUTarget("cuda", capability, _WARP_THREADS),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )
    listing = _disassemble(compiled.asm["cubin"])
    usage = _USAGE.search(listing)
    assert usage is not None, "cuobjdump names the registers of a kernel"
    return MachineCode(
        kernel=kernel.name,
        config=config.name,
        dtype=dtype,
        capability=capability,
        num_warps=config.num_warps,
        registers=int(usage[1]),
        stack_bytes=int(usage[2]) + int(usage[3]),
        shared_bytes=compiled.metadata.shared,
        instructions=dict(Counter(_INSTRUCTION.findall(listing))),
    )


def source_of(kernel: Kernel, config: Config, dtype: str) -> ASTSource:
    """The function with the types of its arguments, as a launch with aligned tensors gives them.

    tests/kernels/test_launched_code.py holds that launches do.
    """
    names = list(kernel.function.arg_names)
    signature: dict[str, str] = dict.fromkeys(config.constants, "constexpr")
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for name, spelled in kernel.arguments.items():
        argument, _, divisor = spelled.partition(":")
        signature[name] = argument.replace("T", dtype)
        if divisor:
            attributes[(names.index(name),)] = [["tt.divisibility", int(divisor)]]
    assert set(signature) == set(names), f"{kernel.name}: {set(signature) ^ set(names)}"
    in_order = {name: signature[name] for name in names}
    return ASTSource(kernel.function, in_order, dict(config.constants), attributes)


def _disassemble(cubin: bytes) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [tool, "-sass", "-res-usage", str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    return done.stdout
