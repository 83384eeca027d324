"""triton_ops against torch_ops: mixed steps go to two kernels, packed weights to others."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from gpu_kernels import assert_near, noise
from torch import Tensor

from picert.kernels.ops import AttentionMeta
from picert.kernels.quant_weight import pack, quantize
from picert.kernels.torch_ops import TorchOps
from picert.kernels.triton_ops import TritonOps

OPS, ORACLE = TritonOps(), TorchOps()
pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")
BLOCK_SIZE, NUM_BLOCKS, HEADS, KV_HEADS, HEAD_DIM = 16, 24, 4, 2, 64
# name -> (context, new tokens) of each sequence, decodes first
STEPS = {
    "decodes": [(5, 1), (40, 1), (17, 1)],
    "prompts": [(5, 5), (40, 20)],
    "decodes_and_prompts": [(33, 1), (2, 1), (3, 1), (20, 20), (45, 30)],
    "a_chunk_of_one_token_last": [(33, 1), (20, 20), (9, 1)],
}


def meta_of(step: list[tuple[int, int]], device: torch.device) -> AttentionMeta:
    lengths, new = zip(*step, strict=True)
    order = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(3)).tolist()
    widest = max(-(-length // BLOCK_SIZE) for length in lengths)
    tables = [[order.pop() for _ in range(-(-n // BLOCK_SIZE))] for n in lengths]
    starts = [sum(new[:s]) for s in range(len(new) + 1)]

    def int32(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return AttentionMeta(
        slot_mapping=int32([0] * sum(new)),
        query_start=int32(starts),
        context_lens=int32(lengths),
        block_tables=int32([(table + [0] * widest)[:widest] for table in tables]),
        max_query_len=max(new),
        max_context_len=max(lengths),
        num_decodes=next((s for s, n in enumerate(new) if n > 1), len(new)),
    )


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("window", [None, 7])
def test_steps_of_any_mix_attend_as_in_torch_ops(
    device: torch.device, name: str, window: int | None
) -> None:
    meta = meta_of(STEPS[name], device)
    shape = (NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM)
    caches = [noise(*shape, seed=seed, dtype=torch.float16, device=device) for seed in (1, 2)]
    num_tokens = int(meta.query_start[-1])
    q = noise(num_tokens, HEADS, HEAD_DIM, seed=3, dtype=torch.float16, device=device)
    options = {"scale": 0.125, "sliding_window": window, "soft_cap": 20.0}
    found = OPS.attention(q, *caches, meta, **options)
    wanted = ORACLE.attention(q.float(), *caches, meta, **options)
    assert_near(found, wanted.double(), torch.float16, roundings=3)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("num_rows", [3, 20])
def test_packed_weights_multiply_and_look_up_as_in_torch_ops(
    device: torch.device, bits: Literal[4, 8], num_rows: int
) -> None:
    plain = noise(200, 96, seed=1, dtype=torch.float32, device=device) / 96**0.5
    weight = pack(quantize(plain, bits))
    x = noise(num_rows, 96, seed=2, dtype=torch.float16, device=device)
    bias = noise(200, seed=3, dtype=torch.float16, device=device)
    wanted = ORACLE.linear(x.double(), weight, bias.double())
    assert_near(OPS.linear(x, weight, bias), wanted, torch.float16, roundings=4)
    ids = torch.tensor([199, 0, 7], dtype=torch.int32, device=device)
    found = OPS.embed(ids, weight, torch.float16)
    assert torch.equal(found, ORACLE.embed(ids, weight, torch.float16))


def test_plain_weights_multiply_and_look_up_as_in_torch_ops(device: torch.device) -> None:
    weight = noise(30, 96, seed=1, dtype=torch.float16, device=device) / 96**0.5
    x = noise(5, 96, seed=2, dtype=torch.float16, device=device)
    wanted = ORACLE.linear(x.double(), weight.double(), None)
    assert_near(OPS.linear(x, weight, None), wanted, torch.float16)
    ids = torch.tensor([29, 0], dtype=torch.int32, device=device)
    assert torch.equal(OPS.embed(ids, weight, torch.float16), weight[[29, 0]])


def test_a_step_can_be_captured_where_kernels_are_compiled(device: torch.device) -> None:
    assert OPS.only_launches == (device.type == "cuda")
