"""Whole engines over the Triton kernels say what they say over plain torch, for every architecture.

In fp32, so that both round alike and a close race between two tokens does not turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gpu_kernels  # noqa: F401 - skips where triton is not installed
import pytest
import tiny_models
import torch
from engine_runs import Tokens, engine_of, generate, prompts_of
from torch import Tensor

from picert.engine.engine import Engine
from picert.engine.streams import HostStream
from picert.engine.torch_runner import Placement, TorchRunner
from picert.kernels.ops import AttentionMeta, Ops
from picert.kernels.torch_ops import TorchOps
from picert.kernels.triton_ops import TritonOps
from picert.messages import SamplingParams
from picert.models.quant_codes import Quantization
from picert.models.weights import Checkpoint, load_checkpoint

CPU = torch.device("cpu")
PARAMS = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
FEW = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
# Prompts of up to 49 tokens in chunks, decodes and prompts in one step, blocks that several
# sequences begin with, and too few of them for all.
SETTINGS = {"max_num_batched_tokens": 32, "kv_tokens": 96, "max_model_len": 64}


def engine_over(
    ops: Ops,
    checkpoint: Checkpoint,
    quantization: Quantization,
    *,
    has_graphs: bool = False,
    **fields: object,
) -> Engine:
    is_triton = isinstance(ops, TritonOps)
    placement = Placement(CPU, torch.float32, quantization, has_graphs, finds_shared=is_triton)
    runner = TorchRunner(checkpoint, ops, placement, HostStream())
    return engine_of(runner, checkpoint, **{**SETTINGS, **fields})


def run(engine: Engine) -> list[Tokens]:
    prompts = prompts_of(engine.tokenizer.vocab_size, 10)[3:]
    tokens = generate(engine, prompts, PARAMS)
    assert engine.stats.preemptions > 0
    assert engine.stats.cached_tokens > 0
    return tokens


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("arch", tiny_models.ARCHS)
def test_greedy_tokens_are_those_of_torch_ops(arch: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_gguf(tmp_path, arch, "F32"))
    wanted = run(engine_over(TorchOps(), checkpoint, "none"))
    assert run(engine_over(TritonOps(), checkpoint, "none")) == wanted


def run_few(engine: Engine) -> list[Tokens]:
    """Prompts of more than 16 rows and decodes of fewer, for either kernel of packed weights."""
    return generate(engine, prompts_of(engine.tokenizer.vocab_size, 10)[7:], FEW)


def test_packed_weights_give_the_tokens_of_dequantised_ones(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_gguf(tmp_path, "llama", "Q4_1"))
    wanted = run_few(engine_over(TorchOps(), checkpoint, "none"))
    assert run_few(engine_over(TritonOps(), checkpoint, "auto")) == wanted


def test_weights_quantised_on_loading_give_the_tokens_of_the_same_codes(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_safetensors(tmp_path, "qwen3"))
    wanted = run_few(engine_over(TorchOps(), checkpoint, "q8"))
    assert run_few(engine_over(TritonOps(), checkpoint, "q8")) == wanted


def test_replayed_decode_steps_give_the_same_tokens(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_gguf(tmp_path, "llama", "F32"))
    wanted = run(engine_over(TorchOps(), checkpoint, "none"))
    assert run(engine_over(TritonOps(), checkpoint, "none", has_graphs=True)) == wanted


class Watched(TritonOps):
    """Counts steps of a layer in which something was shared."""

    def __init__(self) -> None:
        self.num_sharing = 0

    def attention(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, meta: AttentionMeta, **options: Any
    ) -> Tensor:
        self.num_sharing += meta.shared_prefixes is not None
        return super().attention(q, k_cache, v_cache, meta, **options)


def test_what_decodes_begin_with_in_common_is_read_once_also_in_replayed_steps(
    tmp_path: Path,
) -> None:
    checkpoint = load_checkpoint(
        tiny_models.make_gguf(tmp_path, "smollm2", "F32", num_hidden_layers=1)
    )
    sketch = list(range(3, 330))
    prompts = [[*sketch, 10 * i, 7] for i in range(6)]  # five are saved 320 tokens each
    fields = {"max_num_batched_tokens": 512, "kv_tokens": 512, "max_model_len": 384}
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    plain = engine_over(TorchOps(), checkpoint, "none", **fields)
    wanted = generate(plain, prompts, params)
    for has_graphs in (False, True):
        ops = Watched()
        engine = engine_over(ops, checkpoint, "none", has_graphs=has_graphs, **fields)
        assert generate(engine, prompts, params) == wanted
        assert ops.num_sharing >= 2 * checkpoint.config.num_layers
