"""llama.cpp through its C API: one batch of all sequences a step, a K/V stream for each of them.

Sampling is an argmax over the logits, cheaper than any sampler that it has. Settings that were
tried and are the best here are said beside their constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from engines.protocol import Settings
from engines.serving import DecodingOperations, Operation, serve

MAX_BATCH = 2048  # tokens of one call
MICRO_BATCH = 512  # of them computed at once


class LlamaCppEngine:
    """One model and one context."""

    def __init__(self, settings: Settings) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            settings.model.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {settings.model}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = settings.max_num_seqs * settings.max_len
        params.n_batch, params.n_ubatch = MAX_BATCH, MICRO_BATCH
        params.n_seq_max = settings.max_num_seqs
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot make a context of {params.n_ctx} tokens")
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
        self._batch = llama_cpp.llama_batch_init(MAX_BATCH, 0, 1)
        self._lengths: list[int] = []  # tokens of each sequence in the cache
        self._last: list[int] = []  # its last token, not yet there

    def describe(self) -> dict[str, Any]:
        """Versions and settings."""
        return {
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "flash_attn": True,
            "n_batch": MAX_BATCH,
            "n_ubatch": MICRO_BATCH,
        }

    def open(self, prompts: list[list[int]]) -> list[int]:
        """Whole prompts, as many to a call as it holds."""
        self._lengths = [0] * len(prompts)
        self._last = [0] * len(prompts)
        waiting: list[int] = []
        for seq, prompt in enumerate(prompts):
            if sum(len(prompts[s]) for s in waiting) + len(prompt) > MAX_BATCH:
                self._append({s: prompts[s] for s in waiting})
                waiting = []
            waiting.append(seq)
        self._append({s: prompts[s] for s in waiting})
        return [*self._last]

    def step(self) -> list[int]:
        """One token of each sequence in one call."""
        self._append({seq: [token] for seq, token in enumerate(self._last)})
        return [*self._last]

    def clear(self) -> None:
        """Empty the cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)

    def counters(self) -> dict[str, float]:
        """None."""
        return {}

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits [T, V] of one sequence of at most MAX_BATCH tokens."""
        self.clear()
        self._lengths = [0]
        self._decode({0: tokens}, all_logits=True)
        out = np.stack([self._logits_of(row) for row in range(len(tokens))])
        self.clear()
        return out

    def _append(self, tokens: dict[int, Sequence[int]]) -> None:
        """Compute tokens of some sequences and take the likeliest next one of each."""
        self._decode(tokens, all_logits=False)
        row = -1
        for seq, ids in tokens.items():
            row += len(ids)
            self._last[seq] = int(self._logits_of(row).argmax())

    def _decode(self, tokens: dict[int, Sequence[int]], *, all_logits: bool) -> None:
        batch, row = self._batch, 0
        for seq, ids in tokens.items():
            for place, token in enumerate(ids):
                batch.token[row] = token
                batch.pos[row] = self._lengths[seq] + place
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = seq
                batch.logits[row] = all_logits or place == len(ids) - 1
                row += 1
            self._lengths[seq] += len(ids)
        batch.n_tokens = row
        status = llama_cpp.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")

    def _logits_of(self, row: int) -> NDArray[np.float32]:
        """A view [V] that the next call overwrites."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, (self._vocab_size,))


def operations(settings: Settings) -> dict[str, Operation]:
    """The common ones, and logits into a file for the comparison of accuracy."""
    engine = LlamaCppEngine(settings)

    def save_logits(tokens: list[int], path: str) -> None:
        np.save(path, engine.logits(tokens))

    return {**DecodingOperations(engine).table(), "save_logits": save_logits}


if __name__ == "__main__":
    serve(operations)
