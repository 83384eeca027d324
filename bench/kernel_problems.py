"""What is timed on a card for each kernel: inputs of a real launch, the kernel over them, the rows
by which its result is checked, and what others make of the same inputs.

Kernels without a problem of their own are launched with another one and timed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from attention_problems import paged_decode_problem, paged_prefill_problem, shared_decode_problem
from problem import Draw, Problem
from torch import Tensor

from picert.kernels.launch import ModelShape, StepShape, Work
from picert.kernels.ops import SamplingRows
from picert.kernels.quant_linear import quant_linear
from picert.kernels.quant_weight import pack, quantize
from picert.kernels.registry import KERNELS
from picert.kernels.rms_norm import add_rms_norm
from picert.kernels.rope import rope_inplace
from picert.kernels.sample import sample
from picert.kernels.silu_mul import silu_mul
from picert.kernels.store_kv import store_kv_inplace
from picert.kernels.torch_ops import TorchOps

ORACLE = TorchOps()
EPS = 1e-5
CHECKED = 16  # rows of a result that are checked
BLOCK_SIZE = 16
TOP_P = 0.95
Maker = Callable[[ModelShape, StepShape, Draw], Problem]


def _rms_norm(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    x, delta = (draw.normal(step.num_tokens, model.hidden) for _ in range(2))
    weight = draw.normal(model.hidden)
    rows = slice(CHECKED)

    def check(found: Tensor) -> tuple[Tensor, Tensor]:
        total = x[rows] + delta[rows]
        return found[rows], ORACLE.rms_norm(total.double(), weight.double(), EPS)

    return Problem(
        lambda: add_rms_norm(x, delta, weight, EPS)[1],
        check,
        {"torch": lambda: lambda: F.rms_norm(x + delta, (model.hidden,), weight, EPS)},
    )


def _rope(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    q = draw.normal(step.num_tokens, model.num_heads, model.head_dim)
    k = draw.normal(step.num_tokens, model.num_kv_heads, model.head_dim)
    angles = draw.normal(step.num_tokens, model.head_dim // 2, dtype=torch.float32)
    cos, sin = angles.cos(), angles.sin()
    rows = slice(CHECKED)
    q_before, k_before = q[rows].double(), k[rows].double()

    def run() -> Tensor:
        rope_inplace(q, k, cos, sin)
        return q

    def check(found: Tensor) -> tuple[Tensor, Tensor]:
        ORACLE.rope_inplace(q_before, k_before, cos[rows].double(), sin[rows].double())
        both = torch.cat((found[rows].flatten(1), k[rows].flatten(1)), dim=1)
        return both, torch.cat((q_before.flatten(1), k_before.flatten(1)), dim=1)

    return Problem(run, check)


def _silu_mul(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    gate, up = (draw.normal(step.num_tokens, model.intermediate) for _ in range(2))
    rows = slice(CHECKED)
    return Problem(
        lambda: silu_mul(gate, up),
        lambda found: (found[rows], ORACLE.silu_mul(gate[rows].double(), up[rows].double())),
        {"torch": lambda: lambda: F.silu(gate) * up},
    )


def _store_kv(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    shape = (model.num_kv_heads, model.head_dim)
    k, v = (draw.normal(step.num_tokens, *shape) for _ in range(2))
    num_blocks = -(-step.num_tokens // BLOCK_SIZE)
    caches = [
        torch.zeros((num_blocks, BLOCK_SIZE, *shape), dtype=draw.dtype, device=draw.device)
        for _ in range(2)
    ]
    slots = draw.permutation(num_blocks * BLOCK_SIZE)[: step.num_tokens]

    def run() -> Tensor:
        store_kv_inplace(k, v, *caches, slots)
        return caches[0]

    def check(_: Tensor) -> tuple[Tensor, Tensor]:
        places = slots[:CHECKED].long()
        found = torch.stack([cache.flatten(0, 1)[places] for cache in caches])
        return found, torch.stack((k[:CHECKED], v[:CHECKED]))

    return Problem(run, check)


def _quant_linear(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    x = draw.normal(step.num_tokens, model.hidden)
    plain = draw.normal(model.intermediate, model.hidden) * model.hidden**-0.5
    codes = quantize(plain, 4)
    weight = pack(codes)
    outputs = slice(256)  # of all rows; the others are made alike
    wanted = codes.dequantize()[outputs]
    del codes

    def check(found: Tensor) -> tuple[Tensor, Tensor]:
        return found[:CHECKED, outputs], x[:CHECKED].double() @ wanted.t()

    return Problem(
        lambda: quant_linear(x, weight),
        check,
        {"torch, not quantised": lambda: lambda: x @ plain.t()},
    )


def _sample(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    logits = 3 * draw.normal(step.batch, model.vocab, dtype=torch.float32)
    ones = torch.ones(step.batch, device=draw.device)
    uniform = draw.uniform(step.batch)
    rows = SamplingRows(ones, (0 * ones).int(), TOP_P * ones, 0 * ones, uniform)

    def check(found: Tensor) -> tuple[Tensor, Tensor]:
        """Each drawn token's part of the cumulative chances holds the row's number."""
        row = found[:CHECKED].long()[:, None]
        chances = logits[:CHECKED].double().softmax(dim=1)
        heaviest, ids = chances.sort(dim=1, descending=True, stable=True)
        is_in = heaviest.cumsum(dim=1) - heaviest < TOP_P
        kept = torch.zeros_like(chances).scatter(1, ids, heaviest * is_in)
        kept /= kept.sum(dim=1, keepdim=True)
        end = kept.cumsum(dim=1).gather(1, row)[:, 0]
        begin = end - kept.gather(1, row)[:, 0]
        number = uniform[:CHECKED]
        return number, number.double().clamp(begin, end)

    return Problem(lambda: sample(logits, rows)[0], check)


PROBLEMS: Mapping[str, Maker] = {
    "rms_norm": _rms_norm,
    "rope": _rope,
    "silu_mul": _silu_mul,
    "store_kv": _store_kv,
    "paged_prefill": paged_prefill_problem,
    "paged_decode": paged_decode_problem,
    "paged_decode_shared": shared_decode_problem,
    "quant_linear_skinny": _quant_linear,
    "quant_linear_tiled": _quant_linear,
    "sample": _sample,
}


def works_of(name: str, model: ModelShape, step: StepShape, num_sms: int) -> list[Work]:
    """Of a problem's own kernel and of those that it launches around it."""
    kernels = {kernel.name: kernel for kernel in KERNELS}

    def work(kernel: str, step: StepShape) -> Work | None:
        return kernels[kernel].work(model, step, num_sms)

    found = [work(name, step)]
    if name == "quant_linear_skinny":
        found.append(work("quant_linear_add_parts", step))
    if name == "paged_decode_shared":  # what each sequence has alone
        own = step.context - step.context // 2
        found.append(work("paged_decode", StepShape(step.batch, 1, own)))
    if name.startswith("paged_decode"):
        found.append(work("paged_decode_combine", step))
    return [part for part in found if part is not None]
