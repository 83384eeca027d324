"""The torch runner on a card: captured steps, and the same texts as the oracle's.

Products of other sizes round otherwise, and the tokens of random weights are close races: so most
answers must agree, not all.
"""

from __future__ import annotations

import pytest
import tiny_models
from engine_runs import Tokens, engine_of, generate, prompts_of
from gpu_card import card

from picert.config import EngineConfig
from picert.engine.torch_runner import load
from picert.models.weights import Checkpoint, load_checkpoint

pytestmark = pytest.mark.gpu
AGREEMENT = 0.9  # of answers, in their first four tokens


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(
        tiny_models.make_gguf(tmp_path_factory.mktemp("models"), "llama", "Q8_0")
    )


def tokens_on(device: str, checkpoint: Checkpoint, **fields: object) -> list[Tokens]:
    config = EngineConfig(model="tiny", device=device, **fields)  # type: ignore[arg-type]
    engine = engine_of(load(checkpoint, device, config), checkpoint, block_size=16)
    tokens = generate(engine, prompts_of(engine.tokenizer.vocab_size))
    engine.close()
    return tokens


def assert_agree(found: list[Tokens], wanted: list[Tokens]) -> None:
    same = sum(a[:4] == b[:4] for a, b in zip(found, wanted, strict=True))
    assert same >= AGREEMENT * len(wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "auto"])
def test_replayed_steps_say_what_launched_ones_say(
    dtype: str, quantization: str, checkpoint: Checkpoint
) -> None:
    card()
    fields = {"dtype": dtype, "quantization": quantization}
    replayed = tokens_on("cuda", checkpoint, **fields)
    assert_agree(replayed, tokens_on("cuda", checkpoint, cuda_graphs=False, **fields))


def test_texts_are_those_of_torch_ops_in_fp32(checkpoint: Checkpoint) -> None:
    card()
    assert_agree(
        tokens_on("cuda", checkpoint, dtype="float16"),
        tokens_on("cpu", checkpoint, dtype="float32"),
    )
