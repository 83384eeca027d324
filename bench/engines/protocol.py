"""What the benchmark asks of an engine, and the settings that all of them get alike."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Settings:
    """One engine's share of the machine and the room that the cases need."""

    model: str  # path of a GGUF file
    threads: int
    max_num_seqs: int
    max_len: int  # tokens of one sequence, prompt and answer
    device: str = "cpu"
    # Of picert alone:
    kv_cache_dtype: str = "auto"
    runner: str = "auto"

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Settings:
        """The inverse of `to_json`."""
        return cls(**json.loads(line))


class BenchedEngine(Protocol):
    """Greedy decoding of a set of sequences, one step at a time. Prompts of a set have one length.

    Any exception of these methods is reported as the reason why the engine has no figure.
    """

    def describe(self) -> dict[str, Any]:
        """Versions and settings, as they go into the result's line."""
        ...

    def open(self, prompts: list[list[int]]) -> list[int]:
        """Compute the prompts and return the first token of each answer. Replaces no open set."""
        ...

    def step(self) -> list[int]:
        """The next token of each sequence, in the order of `open`."""
        ...

    def clear(self) -> None:
        """Forget the sequences."""
        ...

    def counters(self) -> dict[str, float]:
        """Sums since the start that the benchmark takes differences of; may be empty."""
        ...
