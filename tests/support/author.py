"""An author in a model's place: engines whose every text is known beforehand, for tests of all that
is around them.

What it writes is a function of the conversation: a sketch of four points, a sentence about a
point, or a whole answer, each continued from wherever it was left. So whoever wrote a part of an
answer, and however often it was lost, the answer must be the same.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence

import numpy as np
from fake_engine import FakeRunner
from numpy.typing import NDArray

from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.engine import Engine
from picert.engine.runner import ModelIdentity
from picert.messages import ChatMessage
from picert.models.chat_template import ChatTemplate
from picert.models.config import ModelConfig
from picert.pice.prompts import PromptTemplate, load_prompts

_TEXTS = {
    "Walk daily in a park": "Green trees and fresh air lower the pulse after ten minutes.",
    "Sleep eight full hours": "Deep rest repairs nerves, so mornings begin with patience.",
    "Talk with old friends": "Shared memories bring laughter and make troubles look smaller.",
    "Cook simple warm meals": "Chopping vegetables keeps both hands busy until dinner smells good.",
    "Breathe slowly at noon": "Long breaths tell the body that no danger is near.",
    "Write worries on paper": "A list turns vague fear into items that can be crossed out.",
    "Learn one new song": "Melody occupies attention and leaves nothing for brooding.",
    "Drink less strong coffee": "Without caffeine late in afternoons the heart beats calmly.",
    "Plan tomorrow each evening": "Known tasks stop circling around at night.",
    "Water plants at home": "Caring for leaves rewards steady effort with visible growth.",
    "Swim twice every week": "Cool water carries weight and loosens tight shoulders.",
    "Read paper books quietly": "Stories without screens let eyes and thoughts wander freely.",
}
POINTS = tuple(_TEXTS)
_TURN, _SAID, _REPLY = "\x02", "\x1f", "\x03"
_PROMPTS = load_prompts()
_UNIT = re.compile(r" ?[A-Za-z]+|.", re.S)
END = 0
_FIRST_WORD = 257  # before it: the end, and a token for each byte


def _asks(template: PromptTemplate, **fields: str) -> re.Pattern[str]:
    """The last turn of a prompt; `fields` are what its fields are read as."""
    pattern = re.escape(template.messages[-1].content.strip())
    for name, of in fields.items():
        pattern = pattern.replace(re.escape(f"{{{name}}}"), of)
    return re.compile(pattern)


_POINT = _asks(_PROMPTS.expand_template, question="(.*)", line="(.*)")
_PLAN = _asks(_PROMPTS.sketch_template, question="(.*)", max_points=r"\d+")


def question(number: int) -> str:
    """The question number `number`."""
    return f"What helps people with stress in case {number}?"


def points(asked: str) -> list[str]:
    """The four points of its sketch."""
    return random.Random(asked).sample(POINTS, 4)


def sentence(point: str) -> str:
    """What is written about a point."""
    return f"{point} to feel better. {_TEXTS[point]}"


def whole(asked: str) -> str:
    """The answer without a sketch."""
    return f"About {asked} " + " ".join(sentence(point) for point in points(asked))


def _words() -> list[str]:
    texts = " ".join([whole(question(0)), *map(sentence, POINTS)])
    units = {unit for unit in _UNIT.findall(texts) if len(unit) > 1}
    return sorted(units)


WORDS = tuple(_words())
_IDS = {word: _FIRST_WORD + index for index, word in enumerate(WORDS)}
_BYTES = (b"", *(bytes((b,)) for b in range(256)), *(word.encode() for word in WORDS))
VOCAB_SIZE = len(_BYTES)


def encode(text: str) -> list[int]:
    """One token for a word that the author uses, else one for each byte."""
    ids: list[int] = []
    for unit in _UNIT.findall(text):
        known = _IDS.get(unit)
        ids += [known] if known is not None else [1 + b for b in unit.encode()]
    return ids


def decode(ids: Sequence[int]) -> str:
    """The text of tokens."""
    return b"".join([_BYTES[i] for i in ids]).decode("utf-8", "replace")


def next_token(context: str) -> int:
    """What the author writes next; `context` is all that was said."""
    head, _, said = context.rpartition(_REPLY)
    text = _whole_turn(head.rpartition(_SAID)[2])
    if not text.startswith(said) or len(text) == len(said):
        return END
    return encode(text[len(said) :])[0]


def _whole_turn(asked: str) -> str:
    """The author's turn from its first character, whatever of it is given."""
    about = _POINT.fullmatch(asked.strip())
    if about and about[2] in _TEXTS:
        return f"**{about[2]}**: {sentence(about[2])}"
    plan = _PLAN.fullmatch(asked.strip())
    if plan:
        return "".join(f"{n}. {p}\n" for n, p in enumerate(points(plan[1]), start=1))
    return whole(asked)


class _Decoder:
    def push(self, token_id: int) -> str:
        return decode([token_id])

    def flush(self) -> str:
        return ""


class AuthorTokenizer:
    """Text of the author's conversations, and its tokens."""

    vocab_size = VOCAB_SIZE
    eos_token_ids = (END,)
    chat_template = ChatTemplate(None, {}, {})  # its conversations are not written by one

    def encode(self, text: str) -> list[int]:
        return encode(text)

    encode_prompt = encode

    def encode_chat(
        self, messages: Sequence[ChatMessage], *, prefill: str = "", **_: object
    ) -> list[int]:
        turns = "".join(f"{_TURN}{m.role}{_SAID}{m.content}" for m in messages)
        return encode(turns + _REPLY + prefill)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return decode(token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return decode([token_id]).encode()

    def decoder(self, skip_special_tokens: bool = True) -> _Decoder:
        return _Decoder()


class AuthorRunner(FakeRunner):
    """Stands for a model that takes `step_s` for a step."""

    config = ModelConfig(
        architecture="llama",
        vocab_size=VOCAB_SIZE,
        hidden_size=1,
        intermediate_size=1,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=2,
        max_position=16384,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
    )

    def __init__(self, name: str, step_s: float) -> None:
        super().__init__()
        self.identity = ModelIdentity(name, "a" * 64, 1)
        self._step_s = step_s

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [L, VOCAB_SIZE]: one token stands out."""
        time.sleep(self._step_s)
        self.memory.reshape(-1)[batch.slot_mapping] = batch.token_ids
        logits = np.zeros((len(batch.sample_rows), VOCAB_SIZE), np.float32)
        for place, row in enumerate(batch.sample_rows.tolist()):
            stored = self.memory[batch.block_tables[row]].reshape(-1)
            context = decode(stored[: batch.context_lens[row]].tolist())
            logits[place, next_token(context)] = 60.0
        return logits


def author_engine(name: str, step_s: float, **fields: object) -> Engine:
    """An engine with an author in it; `fields` are EngineConfig's."""
    values: dict[str, object] = {"kv_tokens": 1 << 16, "max_model_len": 8192, **fields}
    config = EngineConfig(model=name, **values)  # type: ignore[arg-type]
    tokenizer: object = AuthorTokenizer()
    return Engine(config, AuthorRunner(name, step_s), tokenizer)  # type: ignore[arg-type]
