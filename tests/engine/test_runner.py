"""Tiny checkpoints through the whole engine: a request's tokens do not depend on its company."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import tiny_models
import torch
from engine_runs import DEFAULTS, PARAMS, SETTINGS, Tokens, generate, prompts_of

from picert.config import EngineConfig
from picert.engine.engine import Engine, load_engine
from picert.engine.runner import NativeRunner, load_runner
from picert.engine.torch_runner import TorchRunner
from picert.errors import ConfigError, ModelError
from picert.models.weights import Checkpoint, load_checkpoint

RUNNERS = ["torch", "native"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "llama": tiny_models.make_gguf(folder, "llama", "Q8_0"),
        "gemma3": tiny_models.make_gguf(folder, "gemma3", "Q8_0"),
    }


def make(path: Path, runner: str, **fields: object) -> Engine:
    values: dict[str, object] = {"runner": runner, **DEFAULTS, **fields}
    return load_engine(EngineConfig(model=str(path), **values))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(paths: dict[str, Path]) -> Callable[[str, str], list[Tokens]]:
    """Each prompt by itself, with nothing shared, chunked or preempted."""

    @cache
    def one_by_one(runner: str, arch: str) -> list[Tokens]:
        engine = make(paths[arch], runner, enable_prefix_caching=False)
        prompts = prompts_of(engine.tokenizer.vocab_size)
        return [generate(engine, [prompt])[0] for prompt in prompts]

    return one_by_one


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_greedy_tokens_are_the_same_alone_and_among_31_others(
    runner: str,
    arch: str,
    name: str,
    paths: dict[str, Path],
    alone: Callable[[str, str], list[Tokens]],
) -> None:
    engine = make(paths[arch], runner, **SETTINGS[name])
    together = generate(engine, prompts_of(engine.tokenizer.vocab_size))
    assert (engine.stats.preemptions > 0) == name.startswith("preemption")
    assert (engine.stats.cached_tokens > 0) == ("no" not in name.split("_"))
    assert together == alone(runner, arch)


@pytest.fixture(scope="module")
def checkpoint(paths: dict[str, Path]) -> Checkpoint:
    return load_checkpoint(paths["llama"])


def config_of(**fields: object) -> EngineConfig:
    return EngineConfig(model="tiny", threads=1, **fields)  # type: ignore[arg-type]


def test_auto_is_native_on_a_cpu(checkpoint: Checkpoint) -> None:
    assert isinstance(load_runner(config_of(), checkpoint, lambda: False), NativeRunner)


def test_runner_names_its_model(checkpoint: Checkpoint) -> None:
    runner = load_runner(config_of(runner="torch"), checkpoint, lambda: False)
    assert isinstance(runner, TorchRunner)
    assert runner.identity.fingerprint == checkpoint.fingerprint
    assert runner.identity.num_parameters == checkpoint.num_parameters


def test_kv_bytes_are_what_torch_allocates(checkpoint: Checkpoint) -> None:
    runner = load_runner(config_of(runner="torch"), checkpoint, lambda: False)
    assert isinstance(runner, TorchRunner)
    runner.allocate_kv(3, 8)
    held = sum(t.numel() * t.element_size() for pair in runner._caches for t in pair)
    assert held == 24 * runner.kv_bytes_per_token


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"device": "cuda"}, "no CUDA device is visible"),
        ({"runner": "native", "dtype": "float16"}, "dtype is float16"),
        ({"runner": "torch", "kv_cache_dtype": "int8"}, "kv_cache_dtype is int8"),
        ({"runner": "torch", "threads_bind": "auto"}, "threads_bind is auto"),
        ({"threads_bind": "4000"}, "names processor 4000"),
    ],
)
def test_combinations_that_do_not_exist_are_refused(
    checkpoint: Checkpoint, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_runner(config_of(**fields), checkpoint, lambda: False)


def test_a_quantised_file_is_not_quantised_again(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match=r"q\.weight: the weights are quantised already"):
        load_runner(config_of(quantization="q4"), checkpoint, lambda: False)


def test_native_kv_bytes_are_what_the_decoder_allocates(checkpoint: Checkpoint) -> None:
    for kv_cache_dtype in ("fp16", "int8"):
        runner = load_runner(config_of(kv_cache_dtype=kv_cache_dtype), checkpoint, lambda: False)
        assert isinstance(runner, NativeRunner)
        runner.allocate_kv(3, 8)
        assert runner._decoder.kv_bytes == 24 * runner.kv_bytes_per_token


@pytest.mark.parametrize("quantization", ["q4", "q8"])
def test_unquantised_folders_are_quantised_when_loaded(tmp_path: Path, quantization: str) -> None:
    path = tiny_models.make_safetensors(tmp_path, "qwen2", dtype=torch.float16)
    folder = load_checkpoint(path)

    def weight_bytes(asked: str) -> int:
        runner = load_runner(config_of(quantization=asked), folder, lambda: False)
        assert isinstance(runner, NativeRunner)
        return runner.weight_bytes

    assert weight_bytes(quantization) < weight_bytes("auto") * (
        0.8 if quantization == "q8" else 0.7
    )
    assert weight_bytes("none") == weight_bytes("auto")
    [tokens] = generate(make(path, "native", quantization=quantization), [[5, 6, 7]])
    assert len(tokens) == PARAMS.max_tokens


def test_native_engine_answers_bound_and_with_8_bit_pages(paths: dict[str, Path]) -> None:
    engine = make(paths["llama"], "native", kv_cache_dtype="int8", threads_bind="auto")
    alone = [generate(engine, [prompt])[0] for prompt in prompts_of(engine.tokenizer.vocab_size)]
    together = generate(engine, prompts_of(engine.tokenizer.vocab_size))
    assert together == alone


def test_native_runner_on_a_gpu_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="for the CPU"):
        load_runner(config_of(runner="native", device="cuda"), checkpoint, lambda: True)


def test_native_engine_does_not_import_torch() -> None:
    code = "import sys, picert.engine.llm, picert.cloud.main, picert.edge.main; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "picert.engine.runner" in done.stdout.split()
    assert "torch" not in done.stdout.split()
