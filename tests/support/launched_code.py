"""A program, run without TRITON_INTERPRET: the code that steps of real models would launch on a
card, held against the code that is compiled ahead of time. JSON: what was launched, what differs.

The models lie on torch's "meta" device, which has shapes and no values: a step that read one, or
mixed devices, would raise here as it would fail or wait within a capture on a card.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from picert.kernels.devices import H100
from picert.kernels.launch import Config, Kernel
from picert.kernels.machine_code import source_of
from picert.kernels.ops import AttentionMeta, SamplingRows
from picert.kernels.quant_weight import OUTPUT_UNIT, WORDS, QuantWeight, groups_of_chunk
from picert.kernels.sample import sample
from picert.kernels.shared_prefix import Bounds, SharedPrefixes
from picert.kernels.triton_ops import TritonOps
from picert.models.config import ModelConfig
from picert.models.decoder import Decoder, Linear

META = torch.device("meta")
BACKEND = make_backend(GPUTarget("cuda", H100.capability, 32))
BLOCK_SIZE, NUM_BLOCKS = 16, 4096
LARGEST_GRID = (2**31 - 1, 65535, 65535)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
Bits = Literal[4, 8]
FORMATS: tuple[tuple[Bits, bool] | None, ...] = (
    *(None, (4, True)),  # (bits, has minima); None: not packed
    *((4, False), (8, False), (8, True)),
)
LLAMA = ModelConfig("llama", 128256, 4096, 14336, 1, 32, 8, 128, 131072, 1e-5, 5e5)
SLIDES = {"sliding_window": 1024, "sliding_layers": (True,)}
MODELS = (
    LLAMA,
    replace(LLAMA, num_kv_heads=32),  # a key/value head for each query head
    ModelConfig("qwen2", 152064, 3584, 18944, 1, 28, 4, 128, 32768, 1e-6, 1e6, qkv_bias=True),
    ModelConfig("qwen3", 151936, 4096, 12288, 1, 32, 8, 128, 40960, 1e-6, 1e6, qk_norm=True),
    ModelConfig("mistral", 32768, 4096, 14336, 1, 32, 8, 128, 32768, 1e-5, 1e6, **SLIDES),
    ModelConfig(
        *("gemma3", 262144, 2560, 10240, 1, 8, 4, 256, 131072, 1e-6, 1e6),
        **SLIDES,
        qk_norm=True,
        post_norms=True,
        activation="gelu_tanh",
        tie_embeddings=True,
        rope_local_theta=1e4,
        attn_soft_cap=50.0,
    ),
    ModelConfig("llama", 49152, 576, 1536, 1, 9, 3, 64, 8192, 1e-5, 1e5, tie_embeddings=True),
)
# (contexts, new tokens of each sequence, whether they share a prefix)
STEPS = (
    *(([100], [1], False), ([5000] * 3, [1] * 3, False), ([2048] * 256, [1] * 256, True)),
    *(([512], [512], False), ([37, 3], [37, 3], False), ([9, 100, 50], [1, 1, 50], False)),
    ([32768], [8192], False),
)


class Pointer:
    """A tensor as a launch looks at it: its type and whether 16 divides its address."""

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.device == META
        self.dtype = tensor.dtype
        self._address = tensor.storage_offset() * tensor.itemsize

    def data_ptr(self) -> int:
        return self._address

    def ptr_range(self) -> int:
        return 2**40


class Launches:
    """What was launched: names of kernel and configuration, and what is not as it was compiled."""

    def __init__(self) -> None:
        self.dtype = "fp16"
        self.configs: set[tuple[str, str]] = set()
        self.differences: set[str] = set()
        self._binders: dict[str, Any] = {}

    def add(self, kernel: Kernel, config: Config, grid: tuple[int, ...], *args: Any) -> None:
        """Stands where Kernel.launch does, and compares instead."""
        if 0 in grid:
            return
        self.configs.add((kernel.name, config.name))
        if any(size > most for size, most in zip(grid, LARGEST_GRID, strict=False)):
            self.differences.add(f"{kernel.name} {config.name}: a grid of {grid}")
        function = kernel.function
        if kernel.name not in self._binders:
            signature = function.signature, function.params, BACKEND
            self._binders[kernel.name] = create_function_from_signature(*signature)
        given = [Pointer(x) if isinstance(x, Tensor) else x for x in args]
        bound, special, _ = self._binders[kernel.name](*given, **config.constants)
        packed = function._pack_args(BACKEND, {}, bound, special, {})
        _, types, constants, attributes = packed
        dtype = self.dtype if self.dtype in kernel.dtypes else kernel.dtypes[0]
        proven = source_of(kernel, config, dtype)
        for at, name in enumerate(types):
            launched = types[name], constants.get((at,)), attributes.get((at,)) or None
            wanted = (
                *(proven.signature[name], proven.constants.get((at,))),
                proven.attrs.get((at,)),
            )
            if launched != wanted:
                self.differences.add(f"{kernel.name} {name}: {wanted} compiled, {launched} run")


def int32(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int32, device=META)


def decoder_of(config: ModelConfig, dtype: torch.dtype, form: tuple[Bits, bool] | None) -> Decoder:
    """With weights of no values."""
    with META:
        decoder = Decoder(config, TritonOps()).to(dtype)
    for linear in decoder.modules():
        if isinstance(linear, Linear) and form is not None:
            linear.pack(packed(*linear.weight.shape, *form))
    half = torch.empty(config.head_dim // 2, device=META)
    decoder.frequencies = (half, 1.0), (half, 1.0)
    return decoder.requires_grad_(False)


def packed(num_outputs: int, num_inputs: int, bits: Bits, has_min: bool) -> QuantWeight:
    num_chunks = -(-num_inputs // (32 * groups_of_chunk(bits)))
    padded = -(-num_outputs // OUTPUT_UNIT) * OUTPUT_UNIT
    groups = num_chunks * groups_of_chunk(bits), padded
    return QuantWeight(
        *(bits, num_outputs, num_inputs),
        words=torch.empty((num_chunks, padded, WORDS), dtype=torch.int16, device=META),
        scale=torch.empty(groups, dtype=torch.float16, device=META),
        minimum=torch.empty(groups, dtype=torch.float16, device=META) if has_min else None,
        unit=torch.empty(padded, device=META),
    )


def meta_of(contexts: list[int], new: list[int], shares: bool) -> AttentionMeta:
    num_seqs, shared = len(contexts), None
    if shares:
        bounds = Bounds(4, 2 * num_seqs, num_seqs, 4, 2)
        shared = SharedPrefixes(int32(4, 5), int32(2 * num_seqs), int32(num_seqs, 2), bounds)
    return AttentionMeta(
        slot_mapping=int32(sum(new)),
        query_start=int32(num_seqs + 1),
        context_lens=int32(num_seqs),
        block_tables=int32(num_seqs, -(-max(contexts) // BLOCK_SIZE)),
        max_query_len=max(new),
        max_context_len=max(contexts),
        num_decodes=next((s for s, n in enumerate(new) if n > 1), num_seqs),
        shared_prefixes=shared,
    )


def run_steps(config: ModelConfig, dtype: torch.dtype, form: tuple[Bits, bool] | None) -> None:
    """Every step once."""
    decoder = decoder_of(config, dtype, form)
    shape = (NUM_BLOCKS, BLOCK_SIZE, config.num_kv_heads, config.head_dim)
    cache = [torch.empty(shape, dtype=dtype, device=META) for _ in range(2)]
    for contexts, new, shares in STEPS:
        ids, rows = int32(sum(new)), int32(len(new))
        logits = decoder(
            ids,
            ids,
            meta_of(contexts, new, shares),
            [(cache[0], cache[1])] * config.num_layers,
            rows,
        )
        assert logits.shape == (len(new), config.vocab_size)
    row = torch.empty(len(new), device=META)
    sample(logits, SamplingRows(row, rows, row, row, row))


def patches(launches: Launches) -> Iterator[Any]:
    """Launching compares, and the device has the multiprocessors of an H100."""
    yield mock.patch.object(Kernel, "launch", lambda *args: launches.add(*args))
    for module in ("paged_decode", "paged_prefill", "quant_linear"):
        yield mock.patch(f"picert.kernels.{module}.num_sms", return_value=H100.num_sms)


def main() -> None:
    launches = Launches()
    with ExitStack() as stack:
        for patch in patches(launches):
            stack.enter_context(patch)
        for config, launches.dtype, form in product(MODELS, DTYPES, FORMATS):
            if form in FORMATS[:2] or config is LLAMA:
                run_steps(config, DTYPES[launches.dtype], form)
    found = {"configs": sorted(launches.configs), "differences": sorted(launches.differences)}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
