"""TorchRunner: models/decoder.py over torch operations, on any device.

The only module of the engine that imports torch; runner.py loads it where it is wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from picert.engine.batch import StepBatch
from picert.engine.runner import identity_of, kv_values_per_token
from picert.kernels.ops import AttentionMeta, Ops
from picert.kernels.torch_ops import TorchOps
from picert.models.decoder import load_decoder
from picert.models.weights import Checkpoint

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class TorchRunner:
    """The decoder of models/decoder.py over `ops`, weights dequantised to `dtype` on `device`."""

    team = None  # torch has its own

    def __init__(
        self, checkpoint: Checkpoint, ops: Ops, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Load the weights. Raises ModelError."""
        self.identity = identity_of(checkpoint)
        self.config = checkpoint.config
        self._device, self._dtype = device, dtype
        self._decoder = load_decoder(checkpoint, ops, device=device, dtype=dtype)
        self._caches: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token in all layers."""
        return self._dtype.itemsize * kv_values_per_token(self.config)

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


def load(checkpoint: Checkpoint, device: str, dtype: str) -> TorchRunner:
    """On "cpu" or "cuda" in `dtype`, of which "auto" is float32 on a CPU and bfloat16 elsewhere.

    Raises ModelError.
    """
    default = torch.float32 if device == "cpu" else torch.bfloat16
    return TorchRunner(checkpoint, TorchOps(), torch.device(device), _DTYPES.get(dtype, default))


def has_cuda() -> bool:
    """Whether torch sees a CUDA device."""
    return torch.cuda.is_available()
