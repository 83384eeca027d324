"""The engine's end of the pipe: requests come as JSON lines on stdin, one reply line goes out each.

Whatever a library prints goes to stderr. The process ends when its parent closes the pipe, even in
the middle of a computation.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from engines.protocol import BenchedEngine, Settings

Operation = Callable[..., Any]


class DecodingOperations:
    """The benchmark's operations on one engine: timed decoding, timed prefill, plain generation."""

    def __init__(self, engine: BenchedEngine) -> None:
        self._engine = engine
        self._prompts: list[list[int]] = []
        self._num_decoded = 0

    def table(self) -> Mapping[str, Operation]:
        """Name -> operation."""
        return {
            "describe": self.describe,
            "generate": self.generate,
            "open": self.open,
            "decode": self.decode,
            "prefill": self.prefill,
            "clear": self.clear,
        }

    def describe(self) -> dict[str, Any]:
        """What the engine says of itself, and the memory that its process holds."""
        return {**self._engine.describe(), "rss_mb": _resident_mb()}

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        """`num_tokens` greedy tokens after each prompt, all prompts in one batch."""
        columns = [self._engine.open(prompts)]
        columns += [self._engine.step() for _ in range(num_tokens - 1)]
        self._engine.clear()
        return [list(row) for row in zip(*columns, strict=True)]

    def open(self, prompts: list[list[int]]) -> dict[str, float]:
        """Compute prompts whose decoding is timed later; what that added to the counters."""
        before = self._engine.counters()
        self._prompts, self._num_decoded = prompts, 0
        self._engine.open(prompts)
        return _difference(self._engine.counters(), before)

    def decode(self, max_steps: int, max_seconds: float, max_growth: int) -> dict[str, Any]:
        """Seconds of each of up to `max_steps` steps, at least two, within about `max_seconds`.

        Sequences that have grown by `max_growth` tokens are first taken back to their prompts. One
        step before the timed ones brings the weights back into the caches that others used.
        """
        if self._num_decoded >= max_growth:
            self._engine.clear()
            self.open(self._prompts)
        self._engine.step()
        before = self._engine.counters()
        seconds: list[float] = []
        while len(seconds) < max_steps and (len(seconds) < 2 or sum(seconds) < max_seconds):
            start = time.perf_counter()
            self._engine.step()
            seconds.append(time.perf_counter() - start)
        self._num_decoded += 1 + len(seconds)
        return {"seconds": seconds, **_difference(self._engine.counters(), before)}

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        """Seconds from a prompt's arrival to its first token."""
        start = time.perf_counter()
        self._engine.open([prompt])
        seconds = time.perf_counter() - start
        self._engine.clear()
        return {"seconds": [seconds]}

    def clear(self) -> None:
        """Forget the open sequences."""
        self._engine.clear()


def serve_engine(make: Callable[[Settings], BenchedEngine]) -> None:
    """Load the engine that argv[1] describes and answer until the parent leaves."""
    serve(lambda settings: DecodingOperations(make(settings)).table())


def serve(make: Callable[[Settings], Mapping[str, Operation]]) -> None:
    """Answer `{"op": name, **arguments}` lines with `{"result": ...}` or `{"error": text}`.

    The first line out, unasked, says that loading is over and how long it took.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = _lines_until_parent_leaves()
    start = time.perf_counter()
    operations = make(Settings.from_json(sys.argv[1]))
    print(json.dumps({"result": {"load_s": time.perf_counter() - start}}), file=replies, flush=True)
    while True:
        request = json.loads(requests.get())
        try:
            reply = {"result": operations[request.pop("op")](**request)}
        except Exception as error:  # the top of the process: the parent decides what it means
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


def _lines_until_parent_leaves() -> queue.SimpleQueue[str]:
    """Lines of stdin as they come; at its end the process ends at once."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def _resident_mb() -> float | None:
    """Resident memory in MB, None where /proc does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            kilobytes = [line.split()[1] for line in status if line.startswith("VmRSS:")]
    except OSError:
        return None
    return round(int(kilobytes[0]) * 1024 / 1e6, 1) if kilobytes else None
