"""A runner and a tokenizer that cost nothing, for tests whose subject is the engine around them.

The runner's logits are a function of all tokens before, which it reads back from its own paged
memory through the block tables, so a wrong slot, table or share changes what is generated.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.draws import Draws, StepOutput
from picert.engine.engine import Engine
from picert.engine.runner import ModelIdentity, PendingStep
from picert.messages import ChatMessage
from picert.models.config import ModelConfig

VOCAB_SIZE = 96
END = 0


def logits_after(token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits [VOCAB_SIZE] that follow these tokens; the end token is never likely."""
    seed = zlib.crc32(np.asarray(token_ids, np.int32).tobytes())
    logits = np.random.default_rng(seed).normal(0, 2, VOCAB_SIZE).astype(np.float32)
    logits[END] = -50.0
    return logits


def greedy_after(prompt_ids: Sequence[int], count: int) -> list[int]:
    """What greedy decoding must give: the oracle."""
    ids = list(prompt_ids)
    for _ in range(count):
        ids.append(int(logits_after(ids).argmax()))
    return ids[len(prompt_ids) :]


class FakeRunner:
    """Stores token ids where others store K/V."""

    identity = ModelIdentity("fake", "f" * 64, 1)
    config = ModelConfig(
        architecture="llama",
        vocab_size=VOCAB_SIZE,
        hidden_size=1,
        intermediate_size=1,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=2,
        max_position=256,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
    )
    kv_bytes_per_token = 4
    team = None
    can_draw = False
    has_own_memory = False

    def __init__(self, logits_of: Callable[[Sequence[int]], NDArray[np.float32]] = logits_after):
        self.logits_of = logits_of
        self.gate = threading.Semaphore(10**9)  # tests that count steps put their own here
        self.num_tokens: list[int] = []  # of each step
        self.is_closed = False

    def allocate_kv(self, num_blocks: int, block_size: int) -> None:
        """Memory full of a token that no prompt has."""
        self.memory = np.full((num_blocks, block_size), -1, np.int32)

    def available_bytes(self) -> int:
        """Enough for anything."""
        return 1 << 30

    def launch(self, batch: StepBatch, draws: Draws | None = None) -> PendingStep:
        """Made when the logits are asked for."""
        return lambda: StepOutput(self.run(batch))

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [L, VOCAB_SIZE]."""
        self.gate.acquire()
        self.num_tokens.append(batch.num_tokens)
        self.memory.reshape(-1)[batch.slot_mapping] = batch.token_ids
        rows = []
        for index in batch.logits_indices.tolist():
            row = int(np.searchsorted(batch.query_start, index, side="right")) - 1
            stored = self.memory[batch.block_tables[row]].reshape(-1)
            rows.append(self.logits_of(stored[: batch.positions[index] + 1].tolist()))
        return np.array(rows, np.float32).reshape(-1, VOCAB_SIZE)

    def close(self) -> None:
        """Note it."""
        self.is_closed = True


class FakeDecoder:
    """Printable ASCII."""

    def push(self, token_id: int) -> str:
        """One character."""
        return chr(31 + token_id)

    def flush(self) -> str:
        """Nothing is ever kept."""
        return ""


class FakeTokenizer:
    """Token 0 ends; the others are ASCII from the blank on."""

    vocab_size = VOCAB_SIZE
    eos_token_ids = (END,)

    def encode_prompt(self, text: str) -> list[int]:
        """One token for each character."""
        return [ord(c) - 31 for c in text]

    def encode(self, text: str) -> list[int]:
        """The same for any text: what is not ASCII is a question mark."""
        return self.encode_prompt("".join(c if " " <= c <= "~" else "?" for c in text))

    def encode_chat(
        self, messages: Sequence[ChatMessage], *, prefill: str = "", **_: object
    ) -> list[int]:
        """What was said, without who said it."""
        return self.encode(" ".join(message.content for message in messages) + prefill)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens that are not the end."""
        return "".join(chr(31 + i) for i in token_ids if i != END)

    def decoder(self, skip_special_tokens: bool = True) -> FakeDecoder:
        """A decoder of one text."""
        return FakeDecoder()


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fake_engine(
    runner: FakeRunner | None = None, clock: Callable[[], float] | None = None, **fields: object
) -> Engine:
    """An engine of fakes; `fields` are EngineConfig's."""
    values: dict[str, object] = {"kv_tokens": 4096, "max_num_seqs": 32, "block_size": 4, **fields}
    config = EngineConfig(model="fake", **values)  # type: ignore[arg-type]
    tokenizer: object = FakeTokenizer()
    return Engine(config, runner or FakeRunner(), tokenizer, clock or Clock())  # type: ignore[arg-type]
