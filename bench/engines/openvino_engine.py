"""OpenVINO GenAI's continuous batching over the same GGUF file, prefix caching off.

The plain pipeline (one sequence at a time, stateful attention) is slower in every case that both
can do. Weights are those that its reader makes of the file; everything else is its default.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from engines.protocol import Settings
from engines.serving import serve_engine

KV_BLOCK = 32  # tokens, of its CPU plug-in
MAX_BATCH = 2048  # tokens of one step


class OpenVinoEngine:
    """One pipeline and the requests of the open set."""

    def __init__(self, settings: Settings) -> None:
        scheduling = genai.SchedulerConfig()
        scheduling.enable_prefix_caching = False
        scheduling.max_num_seqs = settings.max_num_seqs
        scheduling.max_num_batched_tokens = MAX_BATCH
        blocks_of_one = settings.max_len // KV_BLOCK + 2
        scheduling.num_kv_blocks = settings.max_num_seqs * blocks_of_one
        self._pipeline = genai.ContinuousBatchingPipeline(
            settings.model, scheduling, "CPU", {"INFERENCE_NUM_THREADS": settings.threads}
        )
        self._max_len = settings.max_len
        self._next_id = 0
        self._handles: list[genai.GenerationHandle] = []

    def describe(self) -> dict[str, Any]:
        """Versions and settings."""
        return {"version": f"openvino-genai {genai.__version__}", "max_batched_tokens": MAX_BATCH}

    def open(self, prompts: list[list[int]]) -> list[int]:
        """Add all prompts and step until each has its first token."""
        self._handles = [self._add(prompt) for prompt in prompts]
        first: dict[int, int] = {}
        while len(first) < len(prompts):
            self._pipeline.step()
            for place, handle in enumerate(self._handles):
                if place not in first and handle.can_read():
                    first[place] = _tokens(handle)[0]
        return [first[place] for place in range(len(prompts))]

    def step(self) -> list[int]:
        """One step of the pipeline."""
        self._pipeline.step()
        return [_tokens(handle)[-1] for handle in self._handles]

    def clear(self) -> None:
        """Cancel the requests; a step lets them go."""
        for handle in self._handles:
            handle.cancel()
        self._handles = []
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    def counters(self) -> dict[str, float]:
        """None."""
        return {}

    def _add(self, prompt: list[int]) -> genai.GenerationHandle:
        config = genai.GenerationConfig()
        config.max_new_tokens = self._max_len - len(prompt)
        config.ignore_eos = True
        config.do_sample = False
        self._next_id += 1
        ids = openvino.Tensor(np.array([prompt], np.int64))
        return self._pipeline.add_request(self._next_id, ids, config)


def _tokens(handle: genai.GenerationHandle) -> list[int]:
    """Those that came since the last call."""
    (output,) = handle.read().values()
    return list(output.generated_ids)


if __name__ == "__main__":
    serve_engine(OpenVinoEngine)
