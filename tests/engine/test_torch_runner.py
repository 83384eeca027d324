"""The torch runner's steps as a GPU would run them, put off, padded and replayed, on the host."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from engine_runs import PARAMS, SETTINGS, Tokens, engine_of, generate, prompts_of

from picert.config import EngineConfig
from picert.engine.streams import HostStream, Work
from picert.engine.torch_runner import Placement, TorchRunner, load
from picert.kernels.quant_weight import QuantWeight
from picert.kernels.torch_ops import TorchOps
from picert.models.quant_codes import Quantization
from picert.models.weights import Checkpoint, load_checkpoint

CPU = torch.device("cpu")


class Watched(HostStream):
    """Remembers what was captured and how much work waits."""

    def __init__(self) -> None:
        super().__init__()
        self.num_captured = 0
        self.num_waiting = 0

    def submit(self, work: Work) -> None:
        def counted() -> None:
            self.num_waiting -= 1
            work()

        self.num_waiting += 1
        super().submit(counted)

    def capture(self, work: Work) -> Work:
        self.num_captured += 1
        return super().capture(work)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    return {
        arch: load_checkpoint(tiny_models.make_gguf(folder, arch, "Q8_0"))
        for arch in ("llama", "gemma3")
    }


def runner_of(
    checkpoint: Checkpoint,
    stream: HostStream,
    *,
    has_graphs: bool = True,
    quantization: Quantization = "none",
) -> TorchRunner:
    placement = Placement(CPU, torch.float32, quantization, has_graphs)
    return TorchRunner(checkpoint, TorchOps(), placement, stream)


def run(
    checkpoint: Checkpoint, stream: HostStream, name: str, *, has_graphs: bool = True
) -> list[Tokens]:
    runner = runner_of(checkpoint, stream, has_graphs=has_graphs)
    engine = engine_of(runner, checkpoint, **SETTINGS[name])
    return generate(engine, prompts_of(engine.tokenizer.vocab_size))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_replayed_decode_steps_give_the_tokens_of_plain_ones(
    arch: str, name: str, checkpoints: dict[str, Checkpoint]
) -> None:
    stream = Watched()
    replayed = run(checkpoints[arch], stream, name)
    assert stream.num_captured > 1
    assert replayed == run(checkpoints[arch], HostStream(), name, has_graphs=False)


def test_padding_of_a_replayed_step_is_written_nowhere(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["llama"]
    runner = runner_of(checkpoint, HostStream())
    engine = engine_of(runner, checkpoint)
    prompts = prompts_of(engine.tokenizer.vocab_size)[:3]
    generate(engine, prompts)  # decodes padded to 4
    keys, _ = runner._caches[0]
    num_stored = int((keys.abs().sum((2, 3)) > 0).sum())
    # Each computed token at its own place; the last of an answer is never computed.
    num_computed = sum(len(prompt) + 23 for prompt in prompts) - engine.stats.cached_tokens
    assert num_stored == num_computed


def test_new_kv_memory_makes_old_captures_invalid(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint, stream = checkpoints["llama"], Watched()
    runner = runner_of(checkpoint, stream)
    prompts = prompts_of(300)[:2]
    first = generate(engine_of(runner, checkpoint), prompts)
    captured = stream.num_captured
    assert generate(engine_of(runner, checkpoint, block_size=16), prompts) == first
    assert stream.num_captured == 2 * captured


def test_chunks_without_logits_are_launched_without_waiting(
    checkpoints: dict[str, Checkpoint],
) -> None:
    checkpoint, stream = checkpoints["llama"], Watched()
    engine = engine_of(runner_of(checkpoint, stream), checkpoint, max_num_batched_tokens=32)
    engine.add("x", list(range(3, 83)), PARAMS)
    waiting = []
    for _ in range(2):
        assert engine.step() == []
        waiting.append(stream.num_waiting)
    assert waiting == [2, 4]  # of each step the copy of its arrays and the network
    (output,) = engine.step()
    assert stream.num_waiting == 0
    whole = engine_of(runner_of(checkpoint, HostStream()), checkpoint)
    whole.add("x", list(range(3, 83)), PARAMS)
    assert whole.step()[0].token_ids == output.token_ids


def test_packed_weights_say_what_the_same_values_dequantised_say(
    checkpoints: dict[str, Checkpoint],
) -> None:
    checkpoint = checkpoints["llama"]
    packed = engine_of(runner_of(checkpoint, HostStream(), quantization="auto"), checkpoint)
    plain = engine_of(runner_of(checkpoint, HostStream()), checkpoint)
    prompts = prompts_of(plain.tokenizer.vocab_size)[:8]
    assert generate(packed, prompts) == generate(plain, prompts)


@pytest.mark.parametrize(("quantization", "is_packed"), [("auto", False), ("q8", True)])
def test_the_cpu_packs_only_when_told_to(
    quantization: str, is_packed: bool, checkpoints: dict[str, Checkpoint]
) -> None:
    config = EngineConfig(model="tiny", quantization=quantization)  # type: ignore[arg-type]
    runner = load(checkpoints["llama"], "cpu", config)
    assert isinstance(runner._decoder.embed.weight, QuantWeight) == is_packed
