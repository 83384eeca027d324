"""The machine code of every kernel in every configuration, for each GPU, without one at hand."""

from __future__ import annotations

from typing import Any

import pytest
from gpu_kernels import machine_code

from picert.errors import ConfigError
from picert.kernels.devices import DEVICES, programs_per_sm
from picert.kernels.launch import Kernel
from picert.kernels.machine_code import MachineCode, compile_kernel
from picert.kernels.registry import KERNELS

BY_CAPABILITY = {device.capability: device for device in DEVICES.values()}


def faults(kernel: Kernel, code: MachineCode) -> list[str]:
    """What is wrong with it."""
    device, config = BY_CAPABILITY[code.capability], kernel.config(code.config)
    resident = config.num_warps * programs_per_sm(
        device,
        num_warps=code.num_warps,
        registers=code.registers,
        shared_bytes=code.shared_bytes,
    )
    checks = {
        f"{code.spills} spills, {code.stack_bytes} bytes of stack": code.spills or code.stack_bytes,
        f"{resident} warps fit, {config.warps_per_sm} wanted": resident < config.warps_per_sm,
        "no load of 16 bytes": kernel.has_wide_loads and not code.wide_loads,
        "no tensor-core instruction": kernel.has_product and not code.tensor_core_instructions,
    }
    return [text for text, is_wrong in checks.items() if is_wrong]


def name_of(code: MachineCode) -> str:
    return f"{code.config} {code.dtype} sm_{code.capability}"


@pytest.mark.timeout(420)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_code_of_every_configuration_is_good(kernel: Kernel) -> None:
    codes = machine_code(kernel.name)
    assert len(codes) == len(kernel.configs) * len(kernel.dtypes) * len(DEVICES)
    assert not {name_of(code): wrong for code in codes if (wrong := faults(kernel, code))}


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    "kernel", [kernel for kernel in KERNELS if kernel.has_product], ids=lambda kernel: kernel.name
)
def test_products_of_64_rows_and_more_are_of_warp_groups_on_sm_90(kernel: Kernel) -> None:
    """Weights are the 128 rows of quant_linear; attention has 16 where one sequence decodes."""
    for code in machine_code(kernel.name):
        sizes = kernel.config(code.config).constants
        is_wide = sizes.get("OUTPUTS", sizes["ROWS"]) >= 64
        has_wgmma = code.count("HGMMA") > 0
        assert has_wgmma == (is_wide and code.capability == 90), name_of(code)
        assert has_wgmma != (code.count("HMMA") > 0), name_of(code)


def code_with(**changed: Any) -> MachineCode:
    """Code of the first kernel without a fault, but for what is changed."""
    kernel = KERNELS[0]
    good: dict[str, Any] = {
        **{"kernel": kernel.name, "config": kernel.configs[0].name, "dtype": "fp16"},
        **{"capability": 80, "num_warps": 4, "registers": 32, "stack_bytes": 0},
        **{"shared_bytes": 0, "instructions": {"LDG.E.128": 1}},
    }
    return MachineCode(**{**good, **changed})


def test_code_that_is_good_has_no_fault() -> None:
    assert faults(KERNELS[0], code_with()) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"instructions": {"LDG.E.128": 1, "STL": 2}}, "2 spills"),
        ({"instructions": {"LDG.E.64": 1}}, "no load of 16 bytes"),
        ({"stack_bytes": 16}, "16 bytes of stack"),
        ({"registers": 255}, "8 warps fit, 16 wanted"),
        ({"shared_bytes": 164 * 1024}, "0 warps fit"),
    ],
)
def test_each_fault_is_found(changed: dict[str, Any], fault: str) -> None:
    (found,) = faults(KERNELS[0], code_with(**changed))
    assert fault in found


def test_interpreted_kernels_do_not_compile() -> None:
    kernel = KERNELS[0]
    with pytest.raises(ConfigError, match="unset TRITON_INTERPRET"):
        compile_kernel(kernel, kernel.configs[0], "fp16", 80)
