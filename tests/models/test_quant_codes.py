"""Codes read from a file's blocks against the file's own values, and what becomes packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor

from picert.errors import ModelError
from picert.kernels.quant_weight import pack, unpack
from picert.models.quant_codes import Quantization, codes_of, packed
from picert.models.raw_tensor import RawTensor
from picert.models.weights import dequantize, load_checkpoint

CPU = torch.device("cpu")
CODED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K")
HALF = 2.0**-11  # a rounding to fp16


def matrix(folder: Path, quant: str, name: str = "layers.0.gate.weight") -> RawTensor:
    return load_checkpoint(tiny_models.make_gguf(folder, "llama", quant)).tensors[name]


def values_of(tensor: RawTensor) -> Tensor:
    return torch.tensor(dequantize(tensor))


@pytest.mark.parametrize("quant", CODED)
def test_codes_are_those_of_the_file(quant: str, tmp_path: Path) -> None:
    tensor = matrix(tmp_path, quant)
    codes = codes_of(tensor, CPU)
    assert codes is not None
    assert codes.bits == (4 if quant.startswith("Q4") else 8)
    torch.testing.assert_close(codes.dequantize().float(), values_of(tensor), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("quant", CODED)
def test_packing_loses_at_most_a_rounding_of_scales(quant: str, tmp_path: Path) -> None:
    tensor = matrix(tmp_path, quant)
    codes = codes_of(tensor, CPU)
    assert codes is not None
    found, wanted = unpack(pack(codes)), codes.dequantize().float()
    if quant.endswith("_K"):
        largest = wanted.abs().amax()
        assert float((found - wanted).abs().max()) <= 3 * HALF * largest
    else:  # their scales are fp16 already
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_outputs_are_unpacked_in_any_order(tmp_path: Path) -> None:
    codes = codes_of(matrix(tmp_path, "Q5_1", "embed.weight"), CPU)
    assert codes is not None
    weight = pack(codes)
    outputs = torch.tensor([300, 7, 7, 0])
    assert torch.equal(unpack(weight, outputs), unpack(weight)[outputs])


@pytest.mark.parametrize(
    ("quant", "quantization", "bits"),
    [
        *[("Q8_0", "none", None), ("Q8_0", "auto", 8), ("Q8_0", "q4", 8), ("Q4_1", "auto", 4)],
        *[("Q4_1", "q8", 4), ("Q4_K", "q8", 4), ("Q6_K", "auto", 8), ("Q6_K", "q4", 8)],
        *[("F16", "auto", None), ("F16", "q8", 8), ("BF16", "q4", 4), ("F32", "none", None)],
    ],
)
def test_width_of_packed_codes(
    quant: str, quantization: Quantization, bits: int | None, tmp_path: Path
) -> None:
    tensor = matrix(tmp_path, quant)
    weight = packed("gate", tensor, quantization, CPU)
    assert (None if weight is None else weight.bits) == bits
    if weight is not None:
        values = values_of(tensor)
        largest = float(values.abs().max())
        step = largest / 127 if weight.bits == 8 else largest * 2 / 15
        assert float((unpack(weight) - values).abs().max()) <= 0.51 * step + 3 * HALF * largest


def test_vectors_stay_as_they_are(tmp_path: Path) -> None:
    norm = matrix(tmp_path, "Q4_0", "final_norm.weight")
    assert packed("final_norm", norm, "q4", CPU) is None


def test_rows_that_are_no_whole_groups_are_refused() -> None:
    odd = RawTensor("F32", (2, 40), np.zeros(320, np.uint8))
    with pytest.raises(ModelError, match="rows of 40 values, packing wants a multiple of 32"):
        packed("odd", odd, "q8", CPU)
    assert packed("odd", odd, "auto", CPU) is None
