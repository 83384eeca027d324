"""transformers over the dequantised GGUF file: a reference that all have, not a rival.

In fp32 on a CPU: bf16 would halve the bytes, but without AMX its products are slower. In fp16 on a
GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from engines.protocol import Settings
from engines.serving import serve_engine


class TransformersEngine:
    """One model and the key/value cache of the open set."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        path = Path(settings.model)
        self._device = torch.device(settings.device)
        self._dtype = torch.float32 if settings.device == "cpu" else torch.float16
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=self._dtype
        ).to(self._device)
        self._model.eval()
        self._cache: Any = None
        self._last = torch.empty((0, 1), dtype=torch.int64)

    def describe(self) -> dict[str, Any]:
        """Versions and settings."""
        return {
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "dtype": str(self._dtype).removeprefix("torch."),
        }

    def open(self, prompts: list[list[int]]) -> list[int]:
        """All prompts in one batch."""
        self._cache = None
        return self._append(torch.tensor(prompts, device=self._device))

    def step(self) -> list[int]:
        """One token of each sequence."""
        return self._append(self._last)

    def clear(self) -> None:
        """Drop the cache."""
        self._cache = None

    def counters(self) -> dict[str, float]:
        """None."""
        return {}

    @torch.inference_mode()
    def _append(self, tokens: torch.Tensor) -> list[int]:
        """Compute tokens [S, n] and return the likeliest next ones [S]."""
        out = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        self._last = out.logits[:, -1].argmax(-1, keepdim=True)
        ids: list[int] = self._last[:, 0].tolist()
        return ids


if __name__ == "__main__":
    serve_engine(TransformersEngine)
