"""Tokens per second of an engine: tgN (decode with N sequences), ppN (prefill of N tokens).

    python bench/bench_engine.py --model NAME --threads 2 --cases tg1,tg4,tg16,pp512 --json

The result is checked before it is timed: greedy tokens of a sequence in a batch must be those that
it gets alone. Contexts are 128 random tokens, different for each sequence and round, so no prefix
is found in the cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import subprocess
import time

import numpy as np

import picert
from picert import hub
from picert.config import EngineConfig
from picert.engine.engine import Engine, load_engine
from picert.errors import PicertError
from picert.messages import SamplingParams

CONTEXT_LEN = 128
NEW_TOKENS = 32  # of each sequence in a round of decoding
IDS = itertools.count()


def random_prompts(
    engine: Engine, rng: np.random.Generator, count: int, length: int
) -> list[list[int]]:
    """`count` prompts of `length` tokens each."""
    return rng.integers(0, engine.tokenizer.vocab_size, (count, length)).tolist()  # type: ignore[no-any-return]


def add(engine: Engine, prompt: list[int], max_tokens: int) -> str:
    """Queue a greedy request that never ends early."""
    request_id = f"bench-{next(IDS)}"
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    engine.add(request_id, prompt, params)
    return request_id


def generate(engine: Engine, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    """The tokens that follow each prompt, all in one batch."""
    tokens: dict[str, list[int]] = {add(engine, prompt, max_tokens): [] for prompt in prompts}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
    return list(tokens.values())


def check(engine: Engine, rng: np.random.Generator) -> None:
    """Exit with a word if a batch changes what its sequences say."""
    prompts = random_prompts(engine, rng, 4, CONTEXT_LEN)
    together = generate(engine, prompts, 8)
    alone = [generate(engine, [prompt], 8)[0] for prompt in prompts]
    if together != alone:
        raise SystemExit("wrong result: sequences in a batch differ from the same ones alone")


def decode_round(engine: Engine, rng: np.random.Generator, num_seqs: int) -> list[float]:
    """Tokens per second of each step in which all sequences decode."""
    for prompt in random_prompts(engine, rng, num_seqs, CONTEXT_LEN):
        add(engine, prompt, NEW_TOKENS)
    rates = []
    while engine.has_work:
        before = engine.stats.prompt_tokens
        start = time.perf_counter()
        outputs = engine.step()
        seconds = time.perf_counter() - start
        is_decode = engine.stats.prompt_tokens == before and len(outputs) == num_seqs
        if is_decode:
            rates.append(num_seqs / seconds)
    return rates


def prefill_round(engine: Engine, rng: np.random.Generator, length: int) -> list[float]:
    """Tokens per second of one prompt, from its arrival to its first token."""
    (prompt,) = random_prompts(engine, rng, 1, length)
    start = time.perf_counter()
    generate(engine, [prompt], 1)
    return [length / (time.perf_counter() - start)]


def measure(engine: Engine, case: str, rounds: int) -> dict[str, float]:
    """p50, p20 and p80 of the rates after one round of warm-up."""
    kind, size = case[:2], int(case[2:])
    run = decode_round if kind == "tg" else prefill_round
    rng = np.random.default_rng(size)
    run(engine, rng, size)
    rates = [rate for _ in range(rounds) for rate in run(engine, rng, size)]
    p20, p50, p80 = (round(float(q), 1) for q in np.percentile(rates, [20, 50, 80]))
    return {"tok_per_s": p50, "p20": p20, "p80": p80}


def environment(engine: Engine) -> dict[str, object]:
    """What a reader needs to place the figures."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "runner": engine.config.runner,
        "block_size": engine.config.block_size,
        "max_num_batched_tokens": engine.config.max_num_batched_tokens,
        "fingerprint": engine.identity.fingerprint[:12],
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "picert": picert.__version__,
        "commit": done.stdout.strip() or "unknown",
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name that was pulled, or a path")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--runner", choices=["auto", "native", "torch"], default="auto")
    parser.add_argument("--cases", default="tg1,tg4,tg16,pp512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    args.cases = args.cases.split(",")
    for case in args.cases:
        if not re.fullmatch(r"(tg|pp)[1-9]\d{0,4}", case):
            parser.error(f"case {case!r} is unknown: tgN or ppN are wanted, such as tg16")
    return args


def main() -> None:
    """Load, check, measure, print."""
    args = parse()
    try:
        config = EngineConfig(
            model=str(hub.find(args.model)),
            runner=args.runner,
            threads=args.threads,
            max_num_seqs=max(16, *(int(case[2:]) for case in args.cases if case[:2] == "tg"), 1),
        )
        engine = load_engine(config)
    except PicertError as error:
        raise SystemExit(error.message) from None
    check(engine, np.random.default_rng(0))
    for case in args.cases:
        row = {
            **{"bench": "engine", "engine": "picert", "model": args.model, "case": case},
            **{"threads": args.threads, **measure(engine, case, args.rounds)},
        }
        if args.json:
            print(json.dumps({**row, **environment(engine)}), flush=True)
        else:
            figures = f"{row['tok_per_s']:>8} tok/s  (p20 {row['p20']}, p80 {row['p80']})"
            print(f"{case:>6} {figures}", flush=True)


if __name__ == "__main__":
    main()
