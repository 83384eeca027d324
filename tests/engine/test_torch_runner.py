"""The torch runner's steps as a GPU would run them, put off, padded and replayed, on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiny_models
import torch
from engine_runs import PARAMS, SETTINGS, Tokens, engine_of, generate, prompts_of
from torch import Tensor
from torch.overrides import TorchFunctionMode

from picert.config import EngineConfig
from picert.engine import torch_runner
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
        self.shared: set[int] = set()  # where memory lies that the device copies to and from

    def host_memory(self, num_values: int, dtype: torch.dtype) -> Tensor:
        memory = super().host_memory(num_values, dtype)
        self.shared.add(memory.untyped_storage().data_ptr())
        return memory

    def submit(self, work: Work) -> None:
        def counted() -> None:
            self.num_waiting -= 1
            work()

        self.num_waiting += 1
        super().submit(counted)

    def capture(self, work: Work) -> Work:
        self.num_captured += 1
        return super().capture(work)


class Copies(TorchFunctionMode):
    """Notes of each copy between `host` and the device whether the host waits for it."""

    def __init__(self, host: set[int]) -> None:
        super().__init__()
        self.waited: list[bool] = []
        self._host = host

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.copy_:
            ends = {tensor.untyped_storage().data_ptr() for tensor in args[:2]}
            if ends & self._host:
                self.waited.append(not (kwargs or {}).get("non_blocking", False))
        return func(*args, **(kwargs or {}))


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
    draws: bool = False,
) -> TorchRunner:
    placement = Placement(CPU, torch.float32, quantization, has_graphs, draws=draws)
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


@pytest.mark.parametrize("draws", [False, True])
def test_the_host_waits_for_no_copy(draws: bool, checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint, stream = checkpoints["llama"], Watched()
    engine = engine_of(runner_of(checkpoint, stream, draws=draws), checkpoint)
    with Copies(stream.shared) as copies:
        generate(engine, prompts_of(engine.tokenizer.vocab_size)[:3])
    assert len(copies.waited) > 2 * stream.num_captured  # arrays there, logits or tokens back
    assert not any(copies.waited)


@pytest.mark.parametrize(
    ("fields", "dtype", "has_graphs"),
    [
        ({}, torch.bfloat16, True),
        ({"dtype": "float16"}, torch.float16, True),
        ({"cuda_graphs": False}, torch.bfloat16, False),
        ({"dtype": "float32"}, torch.float32, False),  # by torch_ops, which read lengths
    ],
)
def test_a_gpu_runs_kernels_and_captures_what_only_launches(
    fields: dict[str, Any],
    dtype: torch.dtype,
    has_graphs: bool,
    checkpoints: dict[str, Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = pytest.importorskip("picert.kernels.triton_ops").TritonOps
    monkeypatch.setattr(kernels, "only_launches", True)  # as compiled ones
    monkeypatch.setattr(torch_runner, "TorchRunner", lambda *given: given)
    monkeypatch.setattr(torch_runner, "CudaStream", HostStream)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    config = EngineConfig(model="tiny", **fields)
    _, ops, placement, _ = load(checkpoints["llama"], "cuda", config)  # type: ignore[misc]
    has_kernels = dtype != torch.float32
    assert isinstance(ops, kernels) == has_kernels
    assert placement == Placement(
        *(torch.device("cuda"), dtype, config.quantization, has_graphs),
        finds_shared=has_kernels,
        draws=has_kernels,
    )
