"""Cases of the engine benchmark: their names, their prompts, and what they are compared with.

tg16        decode with 16 sequences, contexts of 128 tokens
tg1@2048    decode with one sequence at a context of 2,048 tokens, beside tg1
pp512       prefill of one prompt of 512 tokens
prefix16    decode with 16 sequences that share 512 tokens and have 16 of their own,
            beside unrelated16
unrelated16 the same lengths, nothing shared
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONTEXT_LEN = 128
PREFIX_LEN = 512
OWN_LEN = 16  # tokens of a sequence after a shared prefix
MAX_GROWTH = 32  # tokens decoded until a sequence is taken back to its prompt
MAX_STEPS = 16  # of one round, and one before it that is not timed

_NAME = re.compile(r"(tg|pp|prefix|unrelated)([1-9]\d{0,3})(?:@([1-9]\d{0,4}))?")


@dataclass(frozen=True, slots=True)
class Case:
    """What is timed: decoding of some sequences, or the prefill of one prompt."""

    name: str
    kind: Literal["decode", "prefill"]
    num_seqs: int
    shared_len: int  # tokens that all prompts begin with
    own_len: int  # tokens of each prompt after them

    @property
    def context_len(self) -> int:
        """Tokens of a prompt."""
        return self.shared_len + self.own_len

    @property
    def max_len(self) -> int:
        """Tokens that a sequence reaches at most."""
        return self.context_len + MAX_GROWTH + MAX_STEPS + 8

    def prompts(self, rng: np.random.Generator, vocab_size: int) -> list[list[int]]:
        """Random prompts [num_seqs][context_len]."""
        shared = rng.integers(0, vocab_size, self.shared_len).tolist()
        own = rng.integers(0, vocab_size, (self.num_seqs, self.own_len)).tolist()
        return [shared + ids for ids in own]


def parse_case(name: str) -> Case:
    """Raises ValueError for a name that is none."""
    match = _NAME.fullmatch(name)
    kind, size, context = match.groups() if match else ("", "0", None)
    count = int(size)
    if kind == "tg":
        return Case(name, "decode", count, 0, int(context or CONTEXT_LEN))
    if match is None or context is not None:
        raise ValueError(
            f"case {name!r} is unknown: tgN, tgN@CONTEXT, ppN, prefixN or unrelatedN are wanted, "
            "such as tg16"
        )
    if kind == "pp":
        return Case(name, "prefill", 1, 0, count)
    shared = PREFIX_LEN if kind == "prefix" else 0
    return Case(name, "decode", count, shared, PREFIX_LEN + OWN_LEN - shared)


def baseline_of(case: Case) -> Case | None:
    """The case beside which picert's own figure is read, if it has one."""
    if case.shared_len:
        return parse_case(f"unrelated{case.num_seqs}")
    if case.name.startswith("tg") and case.context_len != CONTEXT_LEN:
        return parse_case(f"tg{case.num_seqs}")
    return None
