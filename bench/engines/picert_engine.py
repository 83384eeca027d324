"""picert itself, through `Engine.step`: scheduling, decoder, sampling and text are all timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import picert
from engines.protocol import Settings
from engines.serving import DecodingOperations, Operation, serve
from engines.work import decoder_work
from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.engine import Engine
from picert.engine.runner import NativeRunner, load_runner
from picert.messages import SamplingParams
from picert.models.tokenizer import load_tokenizer
from picert.models.weights import load_checkpoint


class PicertEngine:
    """One Engine and the requests of the open set."""

    def __init__(self, settings: Settings) -> None:
        checkpoint = load_checkpoint(Path(settings.model))
        config = EngineConfig(
            model=settings.model,
            device=settings.device,
            threads=settings.threads,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=settings.max_len,
            # Twice what the sequences need: the blocks of the set before are still in the cache.
            kv_tokens=2 * settings.max_num_seqs * (settings.max_len + 16),
            kv_cache_dtype=settings.kv_cache_dtype,
            runner=settings.runner,
        )
        runner = load_runner(config, checkpoint)
        tokenizer = load_tokenizer(checkpoint.tokenizer_source, None)
        self._engine = Engine(config, runner, tokenizer)
        self._runner = runner
        self._work = decoder_work(checkpoint, runner)
        self._ids = itertools.count()
        self._order: list[str] = []

    def describe(self) -> dict[str, Any]:
        """Versions, the engine's settings, and what a token costs."""
        config = self._engine.config
        return {
            "version": picert.__version__,
            "runner": config.runner,
            "device": config.device,
            "block_size": config.block_size,
            "max_num_batched_tokens": config.max_num_batched_tokens,
            "vocab_size": self._engine.tokenizer.vocab_size,
            "work": self._work,
        }

    def encode(self, text: str) -> list[int]:
        """The tokens of a raw text."""
        return self._engine.tokenizer.encode_prompt(text)

    def save_logits(self, tokens: list[int], path: str) -> None:
        """Write the logits [T, V] of one sequence, past the scheduler.

        That wants the logits of last tokens alone. The prefix cache is worthless afterwards.
        """
        count, block_size = len(tokens), self._engine.kv_plan.block_size
        places = np.arange(count, dtype=np.int32)
        blocks = np.arange(-(-count // block_size), dtype=np.int32)
        batch = StepBatch(
            seq_ids=(0,),
            token_ids=np.array(tokens, np.int32),
            positions=places,
            slot_mapping=places,
            query_start=np.array([0, count], np.int32),
            context_lens=np.array([count], np.int32),
            block_tables=blocks[None],
            logits_indices=places,
            sample_rows=np.zeros(count, np.int32),
        )
        np.save(path, self._runner.launch(batch)().logits)

    def open(self, prompts: list[list[int]]) -> list[int]:
        """Queue all prompts and step until each has its first token."""
        self._order = [f"bench-{next(self._ids)}" for _ in prompts]
        for request_id, prompt in zip(self._order, prompts, strict=True):
            room = self._engine.max_model_len - len(prompt)
            params = SamplingParams(temperature=0.0, max_tokens=room, ignore_eos=True)
            self._engine.add(request_id, prompt, params)
        first: dict[str, int] = {}
        while len(first) < len(prompts):
            for output in self._engine.step():
                first.setdefault(output.request_id, output.token_ids[0])
        return [first[request_id] for request_id in self._order]

    def step(self) -> list[int]:
        """One step of the engine."""
        tokens = {output.request_id: output.token_ids[0] for output in self._engine.step()}
        return [tokens[request_id] for request_id in self._order]

    def clear(self) -> None:
        """Abort the requests; their blocks stay findable."""
        for request_id in self._order:
            self._engine.abort(request_id)

    def profile(self, work: Callable[[], object]) -> dict[str, float]:
        """Seconds of each phase of the decoder's steps in `work`, on average over the threads.

        Raises ValueError without the native runner.
        """
        if not isinstance(self._runner, NativeRunner):
            raise ValueError("only the native runner has a profile of its steps")
        decoder = self._runner.decoder
        decoder.start_profile()
        work()
        seconds = decoder.profile()["seconds"]
        decoder.stop_profile()
        return {phase: sum(times) / len(times) for phase, times in seconds.items()}

    def counters(self) -> dict[str, float]:
        """Seconds in decoder and sampler; prompt tokens computed rather than found."""
        stats = self._engine.stats
        return {
            "native_s": stats.runner.sum_s + stats.sampler.sum_s,
            "computed_prompt_tokens": stats.prompt_tokens - stats.cached_tokens,
        }


def operations(settings: Settings) -> dict[str, Operation]:
    """The common ones, the tokenizer for those who have none, and logits to compare."""
    engine = PicertEngine(settings)
    table = DecodingOperations(engine).table()
    return {**table, "encode": engine.encode, "save_logits": engine.save_logits}


if __name__ == "__main__":
    serve(operations)
