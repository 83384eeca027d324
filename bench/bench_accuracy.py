"""What quantised arithmetic costs: KL divergence of logits from fp32 over the same weights.

    python bench/bench_accuracy.py --model NAME --peers llama.cpp --json
    python bench/bench_accuracy.py --model NAME --kv-cache-dtypes fp16,int8

The reference is picert's torch runner over the dequantised file in fp32, which tests hold to what
transformers says. All see the same tokens of plain prose in one go, each in a process of its own,
one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from divergence import divergence
from engines.process import EngineFailed, EngineProcess
from engines.protocol import Settings
from machine import environment
from numpy.typing import NDArray
from team import MODULES, PROSE

from picert import hub
from picert.errors import PicertError

PEERS = ("llama.cpp",)  # that give the logits of every token


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name that was pulled, or a GGUF file")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--kv-cache-dtypes", default="fp16", help="of picert: fp16, int8 or both")
    parser.add_argument("--text", type=Path, default=PROSE, help="a text to read")
    parser.add_argument("--num-tokens", type=int, default=400, help="of it, at most 2,048")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    args.peers = [name for name in args.peers.split(",") if name]
    if unknown := {*args.peers} - {*PEERS}:
        parser.error(f"peer {min(unknown)!r} is unknown: choose of {', '.join(PEERS)}")
    if not 1 <= args.num_tokens <= 2048:
        parser.error(f"--num-tokens is {args.num_tokens}: 1 to 2048 is wanted")
    return args


class Comparison:
    """One text through several engines; logits pass through files of a temporary folder."""

    def __init__(self, settings: Settings, text: str, num_tokens: int, folder: str) -> None:
        self._settings = settings
        self._text = text
        self._num_tokens = num_tokens
        self._path = str(Path(folder) / "logits.npy")
        self._tokens: list[int] = []
        self._reference: NDArray[np.float32] | None = None

    def picert(self, kv_cache_dtype: str) -> dict[str, Any]:
        """picert's row."""
        settings = replace(self._settings, kv_cache_dtype=kv_cache_dtype)
        return {"kv_cache_dtype": kv_cache_dtype, **self._row("picert", settings)}

    def peer(self, engine: str) -> dict[str, Any]:
        """A peer's row, or why it has none."""
        try:
            return self._row(engine, self._settings)
        except EngineFailed as failure:
            return {"skipped": str(failure)}

    def _row(self, engine: str, settings: Settings) -> dict[str, Any]:
        logits, about = self._logits(engine, settings)
        if self._reference is None:
            self._reference, _ = self._logits("picert", replace(self._settings, runner="torch"))
        return {"num_tokens": len(logits), **divergence(self._reference, logits), **about}

    def _logits(
        self, engine: str, settings: Settings
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        usable = sorted(os.sched_getaffinity(0))
        cpus = set(usable[-settings.threads :])
        with EngineProcess(MODULES[engine], settings, cpus) as process:
            if not self._tokens:  # picert comes first: its tokenizer serves all
                self._tokens = process.call("encode", text=self._text)[: self._num_tokens]
            process.call("save_logits", tokens=self._tokens, path=self._path)
            told = process.call("describe")
            about = {"version": told["version"], "load_s": round(process.load_s, 2)}
        return np.load(self._path), about


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One for each engine and format."""
    settings = Settings(
        model=str(Path(hub.find(args.model)).resolve()),
        threads=args.threads,
        max_num_seqs=1,
        max_len=args.num_tokens + 16,
    )
    with tempfile.TemporaryDirectory() as folder:
        text = args.text.read_text(encoding="utf-8")
        comparison = Comparison(settings, text, args.num_tokens, folder)
        for kv_cache_dtype in args.kv_cache_dtypes.split(","):
            yield {"engine": "picert", **comparison.picert(kv_cache_dtype)}
        for engine in args.peers:
            yield {"engine": engine, **comparison.peer(engine)}


def main() -> None:
    """One line for each engine; one line for whatever cannot be done."""
    args = parse()
    same = {"threads": args.threads, **environment()}
    try:
        for row in rows(args):
            full = {"bench": "accuracy", "model": args.model, **row, **same}
            print(json.dumps(full) if args.json else line(row), flush=True)
    except PicertError as error:
        raise SystemExit(error.message) from None
    except (EngineFailed, OSError) as error:
        raise SystemExit(f"picert: {error}") from None


def line(row: dict[str, Any]) -> str:
    """The same for people."""
    name = f"{row['engine']:>12} {row.get('kv_cache_dtype', ''):>5}"
    if "skipped" in row:
        return f"{name}  skipped: {row['skipped']}"
    return (
        f"{name}  mean KL {row['mean_kl']:.5f}, p99 {row['p99_kl']:.4f}, top-1 {row['top1']:.1%} "
        f"of {row['num_tokens']} tokens"
    )


if __name__ == "__main__":
    main()
