"""Runners: a StepBatch to logits. Each owns a model's weights and the paged K/V memory.

`TorchRunner` runs models/decoder.py over torch operations, on any device; it is the readable one,
and the oracle of `NativeRunner`, which does a whole step in the C++ extension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from picert import _C
from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.machine import usable_cores
from picert.errors import ConfigError, ModelError
from picert.kernels.ops import AttentionMeta, Ops
from picert.kernels.torch_ops import TorchOps
from picert.models.config import ModelConfig
from picert.models.decoder import load_decoder
from picert.models.rope_table import inv_freq
from picert.models.weights import Checkpoint

NATIVE_KV_BYTES = 2  # of one value: fp16


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model it is, as others name it."""

    name: str
    fingerprint: str
    num_parameters: int


class Runner(Protocol):
    """What the engine needs of a model. One thread at a time."""

    @property
    def identity(self) -> ModelIdentity:
        """Of the model that it runs."""
        ...

    @property
    def config(self) -> ModelConfig:
        """Of the same."""
        ...

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token in all layers."""
        ...

    @property
    def team(self) -> _C.ThreadPool | None:
        """Threads that the engine may use between runs, if it has any of ours."""
        ...

    def allocate_kv(self, num_blocks: int, block_size: int) -> None:
        """Make the K/V memory; once, before the first run."""
        ...

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """Store the K/V of the step's tokens; logits [L, V], valid until the next run.

        Every layer stores the K/V of all tokens before any of them attends: sequences may share
        blocks that another one fills in this very step.
        """
        ...

    def close(self) -> None:
        """Free weights and K/V."""
        ...


def _identity(checkpoint: Checkpoint) -> ModelIdentity:
    return ModelIdentity(checkpoint.name, checkpoint.fingerprint, checkpoint.num_parameters)


def _kv_values_per_token(config: ModelConfig) -> int:
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim


class NativeRunner:
    """A step in C++ on the CPU, weights quantised as in their file, which is then let go."""

    def __init__(self, checkpoint: Checkpoint, threads: int, isa: str = "") -> None:
        """Repack the weights. `isa` forces "scalar", "avx2" or "avx512". Raises ModelError."""
        self.identity = _identity(checkpoint)
        self.config = checkpoint.config
        tensors = {name: (t.dtype, t.shape, t.data) for name, t in checkpoint.tensors.items()}
        try:
            self._decoder = _C.Decoder(native_config(checkpoint.config), tensors, threads, isa)
        except ValueError as error:
            raise ModelError(f"{checkpoint.name}: {error}") from None
        self._logits = np.empty((0, self.config.vocab_size), np.float32)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token in all layers."""
        return NATIVE_KV_BYTES * _kv_values_per_token(self.config)

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._decoder.isa

    @property
    def team(self) -> _C.ThreadPool:
        """The decoder's threads."""
        return self._decoder.team

    @property
    def weight_bytes(self) -> int:
        """Of all weights as the decoder holds them, the file's embedding table among them."""
        return self._decoder.weight_bytes

    def allocate_kv(self, num_blocks: int, block_size: int) -> None:
        """Make the K/V memory."""
        self._decoder.allocate_kv(num_blocks, block_size)

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [L, V] of the step, in memory that the next run overwrites."""
        num_logits = len(batch.logits_indices)
        if num_logits > len(self._logits):
            self._logits = np.empty((num_logits, self.config.vocab_size), np.float32)
        out = self._logits[:num_logits]
        self._decoder.step(
            *(batch.token_ids, batch.positions, batch.slot_mapping, batch.query_start),
            *(batch.context_lens, batch.block_tables, batch.logits_indices, out),
        )
        return out

    def close(self) -> None:
        """Free weights and K/V."""
        del self._decoder


def native_config(config: ModelConfig) -> dict[str, Any]:
    """What `picert._C.Decoder` wants to know of a model; 0 stands for none."""
    layers = range(config.num_layers)
    table, factor = inv_freq(config, local=False)
    has_local = config.rope_local_theta is not None
    same = (
        *("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size"),
        *("intermediate_size", "vocab_size", "rms_norm_eps", "qkv_bias", "qk_norm", "post_norms"),
        *("activation", "embed_scale", "softmax_scale"),
    )
    return {
        **{name: getattr(config, name) for name in same},
        "window": [config.window_of(layer) or 0 for layer in layers],
        "attn_soft_cap": config.attn_soft_cap or 0.0,
        "logit_soft_cap": config.logit_soft_cap or 0.0,
        "inv_freq": table,
        "inv_freq_local": inv_freq(config, local=True)[0] if has_local else None,
        "rope_factor": factor,
        "is_local": [has_local and config.is_sliding(layer) for layer in layers],
    }


class TorchRunner:
    """The decoder of models/decoder.py over `ops`, weights dequantised to `dtype` on `device`."""

    team = None  # torch has its own

    def __init__(
        self, checkpoint: Checkpoint, ops: Ops, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Load the weights. Raises ModelError."""
        self.identity = _identity(checkpoint)
        self.config = checkpoint.config
        self._device, self._dtype = device, dtype
        self._decoder = load_decoder(checkpoint, ops, device=device, dtype=dtype)
        self._caches: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token in all layers."""
        return self._dtype.itemsize * _kv_values_per_token(self.config)

    def allocate_kv(self, num_blocks: int, block_size: int) -> None:
        """Make the K/V memory: per layer two of [N, B, G, D]."""
        shape = (num_blocks, block_size, self.config.num_kv_heads, self.config.head_dim)

        def cache() -> torch.Tensor:
            return torch.zeros(shape, dtype=self._dtype, device=self._device)

        self._caches = [(cache(), cache()) for _ in range(self.config.num_layers)]

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [L, V] of the step."""
        meta = AttentionMeta(
            slot_mapping=self._tensor(batch.slot_mapping),
            query_start=self._tensor(batch.query_start),
            context_lens=self._tensor(batch.context_lens),
            block_tables=self._tensor(batch.block_tables),
            max_query_len=int(np.diff(batch.query_start).max()),
            max_context_len=int(batch.context_lens.max()),
        )
        logits = self._decoder(
            self._tensor(batch.token_ids),
            self._tensor(batch.positions),
            meta,
            self._caches,
            self._tensor(batch.logits_indices),
        )
        out: NDArray[np.float32] = logits.cpu().numpy()
        return out

    def close(self) -> None:
        """Free weights and K/V."""
        del self._decoder
        self._caches = []

    def _tensor(self, array: NDArray[np.int32]) -> torch.Tensor:
        """On the CPU a view, not a copy."""
        return torch.from_numpy(array).to(self._device)


_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def load_runner(
    config: EngineConfig,
    checkpoint: Checkpoint,
    has_cuda: Callable[[], bool] = torch.cuda.is_available,
) -> Runner:
    """The runner that `config` asks for; "auto" is native on a CPU and torch on a GPU.

    Raises ConfigError for a combination that does not exist here, ModelError for the weights.
    """
    device = config.device if config.device != "auto" else "cuda" if has_cuda() else "cpu"
    if device == "cuda" and not has_cuda():
        raise ConfigError("device is cuda, no CUDA device is visible: use cpu", param="device")
    kind = config.runner if config.runner != "auto" else "native" if device == "cpu" else "torch"
    if kind == "torch":
        dtype = _DTYPES.get(config.dtype, torch.float32 if device == "cpu" else torch.bfloat16)
        return TorchRunner(checkpoint, TorchOps(), torch.device(device), dtype)
    if device != "cpu":
        raise ConfigError("the native runner is for the CPU: use runner torch", param="runner")
    if config.dtype != "auto":
        raise ConfigError(
            f"dtype is {config.dtype}, the native runner keeps the file's: leave it out or use "
            "runner torch",
            param="dtype",
        )
    return NativeRunner(checkpoint, config.threads or usable_cores())
