"""Whole engines over tiny checkpoints, and the crowds of requests that are run through them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from picert.config import EngineConfig
from picert.engine.engine import Engine
from picert.engine.runner import Runner
from picert.messages import SamplingParams
from picert.models.tokenizer import load_tokenizer
from picert.models.weights import Checkpoint

Tokens = tuple[int, ...]
SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "no_prefix_cache": {"enable_prefix_caching": False},
    "chunks": {"max_num_batched_tokens": 32},
    "preemption": {"kv_tokens": 168},
    "preemption_chunks_no_cache": {
        "kv_tokens": 168,
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 32,
    },
}
DEFAULTS: dict[str, object] = {
    "threads": 1,
    "block_size": 8,
    "kv_tokens": 4096,
    "max_model_len": 128,
}
PARAMS = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)


def engine_of(runner: Runner, checkpoint: Checkpoint, **fields: object) -> Engine:
    """An engine around a runner; `fields` are EngineConfig's."""
    config = EngineConfig(model=checkpoint.name, **{**DEFAULTS, **fields})  # type: ignore[arg-type]
    return Engine(config, runner, load_tokenizer(checkpoint.tokenizer_source, None))


def prompts_of(vocab_size: int, count: int = 32) -> list[list[int]]:
    """Prompts of 1 to 72 tokens, most of which begin alike."""
    rng = random.Random(1)
    shared = [rng.randrange(vocab_size) for _ in range(40)]
    return [
        shared[: rng.choice([0, 17, 40])] + [rng.randrange(vocab_size) for _ in range(n + 1)]
        for n in range(count)
    ]


def generate(
    engine: Engine, prompts: Sequence[list[int]], params: SamplingParams = PARAMS
) -> list[Tokens]:
    """The answers to all prompts, run together; every table is checked after each step."""
    for i, prompt in enumerate(prompts):
        engine.add(str(i), prompt, params)
    texts: list[Tokens] = [()] * len(prompts)
    while engine.has_work:
        for output in engine.step():
            texts[int(output.request_id)] += output.token_ids
        engine.self_check()
    return texts
