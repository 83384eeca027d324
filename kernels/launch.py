"""Kernel and Config: a Triton function with all that is known of it before it runs.

A kernel's file builds one Kernel; `registry` lists them. Launching, interpreting, compiling ahead
of time and estimating all read these records, so that what was proven is what gets launched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from picert.errors import ConfigError
from picert.kernels.launch_table import TABLE, LaunchTable, Setting

DTYPES = ("fp16", "bf16")  # of activations, as Triton spells them


@dataclass(frozen=True, slots=True)
class Config:
    """One way to launch a kernel: what is fixed when it is compiled."""

    name: str  # unique in its kernel
    constants: Mapping[str, int]  # every argument in CAPITALS
    num_warps: int  # of one program
    num_stages: int = 1  # depth of the software pipeline of loads
    # Warps that one multiprocessor must hold at once for the loads in flight to cover the latency
    # of memory; the machine-code test holds it on every device.
    warps_per_sm: int = 16


@dataclass(frozen=True, slots=True)
class Work:
    """What one launch must do at the least, whatever the code: the ground of the roofline."""

    config: Config
    num_programs: int
    bytes: int  # read and written once each
    tensor_flops: int = 0  # multiplications and additions that tensor cores do
    flops: int = 0  # the other floating-point operations, in fp32
    exponentials: int = 0  # that the special function units do


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder, for real shapes in benchmarks."""

    name: str
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class StepShape:
    """A step: `batch` sequences with `query_len` new tokens each, the last of `context` tokens."""

    batch: int
    query_len: int
    context: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the step."""
        return self.batch * self.query_len


@dataclass(frozen=True, slots=True)
class Kernel:
    """A jit function, its arguments, every configuration and what its machine code must show."""

    name: str
    function: Any  # what @triton.jit made
    # Arguments that are not constants, in order, in Triton's spelling: "*T:16" is a pointer to the
    # dtype under test, aligned to 16 bytes; "i64:16" an integer that 16 divides.
    arguments: Mapping[str, str]
    configs: tuple[Config, ...]
    # The launch that a step of a model makes on a device of so many multiprocessors; None if this
    # kernel has no part in it.
    work: Callable[[ModelShape, StepShape, int], Work | None]
    dtypes: tuple[str, ...] = DTYPES
    has_wide_loads: bool = True  # 16 bytes a thread and load, where memory is the limit
    has_product: bool = False  # tensor cores must be used
    table: LaunchTable = TABLE  # what of `configs` it names is launched as it says
    _by_name: dict[str, Config] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        names = [config.name for config in self.configs]
        assert len({*names}) == len(names), f"{self.name}: two configs share a name"
        measured = self.table.of(self.name, names)
        configs = tuple(_measured(config, measured.get(config.name)) for config in self.configs)
        object.__setattr__(self, "configs", configs)  # frozen for everybody else
        self._by_name.update(zip(names, configs, strict=True))

    def config(self, name: str) -> Config:
        """The configuration of that name. Raises ConfigError."""
        if name not in self._by_name:
            raise ConfigError(
                f"kernel {self.name} has no configuration {name}: one of {', '.join(self._by_name)}"
            )
        return self._by_name[name]

    def launch(self, config: Config, grid: tuple[int, ...], *args: Any) -> None:
        """Run on the current device's stream; nothing where the grid is empty."""
        if 0 in grid:
            return
        self.function[grid](
            *args, **config.constants, num_warps=config.num_warps, num_stages=config.num_stages
        )


def _measured(config: Config, setting: Setting | None) -> Config:
    if setting is None:
        return config
    return replace(config, num_warps=setting.num_warps, num_stages=setting.num_stages)
