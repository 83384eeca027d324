"""store_kv_inplace against torch_ops: the same bits, and no others changed."""

from __future__ import annotations

import torch
from gpu_kernels import DTYPES, drawn_inputs, noise
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from picert.kernels.store_kv import store_kv_inplace
from picert.kernels.torch_ops import TorchOps

ORACLE = TorchOps()


def poisoned_caches(*shape: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(2)]


@drawn_inputs
@given(
    num_tokens=st.integers(0, 8),
    block_size=st.integers(1, 16),
    num_heads=st.integers(1, 9),
    head_dim=st.integers(1, 256),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_slots_are_filled_as_by_torch_ops(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    num_tokens: int,
    block_size: int,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    # Rows of one projection: a token's keys and values lie side by side.
    new = noise(num_tokens, 2 * num_heads, head_dim, seed=seed, dtype=dtype, device=device)
    k, v = new.split(num_heads, dim=1)
    shape = (8, block_size, num_heads, head_dim)
    order = torch.randperm(8 * block_size, generator=torch.Generator().manual_seed(seed))
    slots = order[:num_tokens].to(torch.int32).to(device)
    ours = poisoned_caches(*shape, dtype=dtype, device=device)
    wanted = poisoned_caches(*shape, dtype=dtype, device=device)
    store_kv_inplace(k, v, *ours, slots)
    ORACLE.store_kv_inplace(k, v, *wanted, slots)
    for cache, oracle in zip(ours, wanted, strict=True):
        assert torch.equal(cache.view(torch.int16), oracle.view(torch.int16))


def test_negative_slots_are_left_out(device: torch.device) -> None:
    k = noise(3, 2, 8, seed=0, dtype=torch.float16, device=device)
    caches = poisoned_caches(2, 4, 2, 8, dtype=torch.float16, device=device)
    slots = torch.tensor([5, -1, -1], dtype=torch.int32, device=device)
    store_kv_inplace(k, k, *caches, slots)
    for cache in caches:
        flat = cache.view(8, 2, 8)
        assert torch.equal(flat[5], k[0])
        assert flat.isnan().flatten(1).all(dim=1).sum() == 7


def test_slots_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    num_blocks, block_size, width = 2**13 + 1, 256, 1024
    num_bytes = num_blocks * block_size * width * 2
    caches = []
    for _ in range(2):
        storage = torch.UntypedStorage(num_bytes, device=device)
        flat = torch.empty(0, dtype=torch.float16, device=device).set_(storage)
        caches.append(flat.view(num_blocks, block_size, 8, 128))
    k = noise(2, 8, 128, seed=0, dtype=torch.float16, device=device)
    slots = torch.tensor([0, num_blocks * block_size - 1], dtype=torch.int32, device=device)
    store_kv_inplace(k, -k, *caches, slots)
    for cache, new in zip(caches, (k, -k), strict=True):
        assert torch.equal(cache[0, 0], new[0])
        assert torch.equal(cache[-1, -1], new[1])
