"""Runners: a StepBatch to logits or tokens. Each owns a model's weights and the paged K/V memory.

`NativeRunner` does a whole step in the C++ extension; torch_runner.py has the readable one, its
oracle, for any device.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from picert import _C
from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.draws import Draws, StepOutput
from picert.engine.machine import (
    available_memory,
    processors_for,
    usable_cores,
    usable_processors,
)
from picert.errors import ConfigError, ModelError
from picert.models.config import ModelConfig
from picert.models.rope_table import inv_freq
from picert.models.weights import Checkpoint

PendingStep = Callable[[], StepOutput]  # waits for the step
KvFormat = Literal["fp16", "int8"]
_SCALE_BYTES = 4  # of one token's keys, or values, in one head: int8 has such scales


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

    @property
    def can_draw(self) -> bool:
        """Whether its device draws tokens; else all logits that are wanted come to the host."""
        ...

    def allocate_kv(self, num_blocks: int, block_size: int) -> None:
        """Make the K/V memory; once, before the first run."""
        ...

    def available_bytes(self) -> int:
        """Memory that is left where K/V would lie."""
        ...

    @property
    def has_own_memory(self) -> bool:
        """Whether that is a device's, which nobody else needs."""
        ...

    def launch(self, batch: StepBatch, draws: Draws | None = None) -> PendingStep:
        """Begin a step: store the K/V of its tokens, compute the logits that are wanted, and draw
        from the rows that `draws` says, if it can.

        What comes back waits for the step; it must be called before the next launch, and its output
        is valid until then. `batch` and `draws` must stay as they are until that call. Every layer
        stores the K/V of all tokens before any of them attends: sequences may share blocks that
        another one fills in this very step.

        Of a runner that can draw, two steps may be under way: there all of this goes for the launch
        after the next, and the arrays may change as soon as this returns. Steps run in the order of
        their launch. A token -1 - row is the one that the step before draws from that row.
        """
        ...

    def close(self) -> None:
        """Free weights and K/V."""
        ...


def identity_of(checkpoint: Checkpoint) -> ModelIdentity:
    """What the checkpoint says of itself."""
    return ModelIdentity(checkpoint.name, checkpoint.fingerprint, checkpoint.num_parameters)


def kv_values_per_token(config: ModelConfig) -> int:
    """Values of K and V of one token in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim


@dataclass(frozen=True, slots=True)
class NativeOptions:
    """How the native decoder holds a model and runs it."""

    threads: int = 1
    cpus: tuple[int, ...] = ()  # the processor of each thread; empty leaves them to the system
    isa: str = ""  # forces "scalar", "avx2", "avx2_vnni" or "avx512"
    quantization: Literal["none", "q4", "q8"] = "none"  # of floating-point matrices
    kv_format: KvFormat = "fp16"


class NativeRunner:
    """A step in C++ on the CPU, weights as in their file, which is then let go."""

    can_draw = False  # the sampler reads its logits where they lie
    has_own_memory = False

    def __init__(self, checkpoint: Checkpoint, options: NativeOptions) -> None:
        """Repack the weights. Raises ModelError."""
        self.identity = identity_of(checkpoint)
        self.config = checkpoint.config
        self._kv_format = options.kv_format
        tensors = {name: (t.dtype, t.shape, t.data) for name, t in checkpoint.tensors.items()}
        try:
            self._decoder = _C.Decoder(
                *(native_config(checkpoint.config), tensors, options.threads, options.isa),
                *(options.quantization, options.cpus),
            )
        except ValueError as error:
            raise ModelError(f"{checkpoint.name}: {error}") from None
        self._logits = np.empty((0, self.config.vocab_size), np.float32)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token in all layers."""
        values = kv_values_per_token(self.config)
        if self._kv_format == "fp16":
            return 2 * values
        return values + values // self.config.head_dim * _SCALE_BYTES

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._decoder.isa

    @property
    def team(self) -> _C.ThreadPool:
        """The decoder's threads."""
        return self._decoder.team

    @property
    def decoder(self) -> _C.Decoder:
        """For those who profile its steps."""
        return self._decoder

    @property
    def weight_bytes(self) -> int:
        """Of all weights as the decoder holds them, the file's embedding table among them."""
        return self._decoder.weight_bytes

    def allocate_kv(self, num_blocks: int, block_size: int) -> None:
        """Make the K/V memory."""
        self._decoder.allocate_kv(num_blocks, block_size, self._kv_format)

    def available_bytes(self) -> int:
        """Of the machine."""
        return available_memory()

    def launch(self, batch: StepBatch, draws: Draws | None = None) -> PendingStep:
        """The step is made when its logits are asked for: it takes the cores that it is given."""
        return lambda: StepOutput(self.run(batch))

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


def _torch_runner() -> ModuleType:
    """Imported when it is wanted: torch costs seconds and 200 MB, and the native runner has no use
    for it."""
    return import_module("picert.engine.torch_runner")


def _has_cuda() -> bool:
    """Whether torch sees a CUDA device; it is asked only where there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return bool(_torch_runner().has_cuda())


def load_runner(
    config: EngineConfig,
    checkpoint: Checkpoint,
    has_cuda: Callable[[], bool] = _has_cuda,
) -> Runner:
    """The runner that `config` asks for; "auto" is native on a CPU and torch on a GPU.

    Raises ConfigError for a combination that does not exist here, ModelError for the weights.
    """
    device = config.device if config.device != "auto" else "cuda" if has_cuda() else "cpu"
    if device == "cuda" and not has_cuda():
        raise ConfigError("device is cuda, no CUDA device is visible: use cpu", param="device")
    kind = config.runner if config.runner != "auto" else "native" if device == "cpu" else "torch"
    if kind == "torch":
        _refuse_native_options(config)
        runner: Runner = _torch_runner().load(checkpoint, device, config)
        return runner
    if device != "cpu":
        raise ConfigError("the native runner is for the CPU: use runner torch", param="runner")
    if config.dtype != "auto":
        raise ConfigError(
            f"dtype is {config.dtype}, the native runner keeps the file's: leave it out or use "
            "runner torch",
            param="dtype",
        )
    return NativeRunner(checkpoint, native_options(config))


def native_options(config: EngineConfig) -> NativeOptions:
    """What `config` asks of the native decoder. Raises ConfigError."""
    threads = config.threads or usable_cores()
    return NativeOptions(
        threads=threads,
        cpus=processors_for(config.threads_bind, threads, usable_processors()),
        quantization="none" if config.quantization == "auto" else config.quantization,
        kv_format="int8" if config.kv_cache_dtype == "int8" else "fp16",
    )


def _refuse_native_options(config: EngineConfig) -> None:
    """The torch runner has its own threads and keeps K and V in its dtype."""
    for name, served in (("threads_bind", "none"), ("kv_cache_dtype", "auto")):
        given = getattr(config, name)
        if given != served:
            raise ConfigError(
                f"{name} is {given}, the torch runner has no such thing: leave it out or use "
                "runner native",
                param=name,
            )
