"""HeldModels with tiny random models: what is loaded, what goes for it, what is told of them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from picert.config import EdgeConfig, EngineConfig
from picert.edge.models import HeldModels, start_engine
from picert.engine.loop import EngineLoop
from picert.errors import ConfigError, ModelNotFound, PicertError
from picert.messages import SamplingParams
from picert.models.weights import load_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models of about one size, and one that has more layers."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "small": tiny_models.make_gguf(folder / "s", "qwen2", num_hidden_layers=1),
        "other": tiny_models.make_gguf(folder / "o", "qwen2", num_hidden_layers=1, seed=1),
        "large": tiny_models.make_gguf(folder / "l", "llama", num_hidden_layers=4),
    }
    return {name: str(path) for name, path in made.items()}


def weight_mb(path: str) -> float:
    tensors = load_checkpoint(Path(path)).tensors.values()
    return sum(tensor.data.nbytes for tensor in tensors) / 1e6


def engine(path: str) -> EngineConfig:
    return EngineConfig(model=path, threads=1, kv_tokens=256, max_num_seqs=2, max_model_len=128)


@pytest.fixture
def hold(files: dict[str, str]) -> Iterator[object]:
    made: list[HeldModels] = []

    def make(
        held: list[str], spares: list[str], bound_mb: float | None = None, **parts: Any
    ) -> HeldModels:
        config = EdgeConfig(
            engines=tuple(engine(files.get(name, name)) for name in held),
            spares=tuple(engine(files.get(name, name)) for name in spares),
            model_memory_mb=bound_mb,
            name="e",
        )
        made.append(HeldModels(config, **parts))
        return made[-1]

    yield make
    for models in made:
        models.stop()


async def says_something(loop: EngineLoop) -> bool:
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    pieces = [o async for o in loop.stream("q", [1, 2, 3], params)]
    return pieces[-1].num_completion_tokens == 3


async def test_a_spare_is_loaded_beside_what_is_held_where_there_is_room(hold, files) -> None:
    models = hold(["small"], ["large"])
    before = models.hello()
    assert [model.name for model in before.models] == [files["small"]]
    [spare] = before.spares
    assert (spare.info.name, spare.info.max_model_len) == (files["large"], 128)
    assert spare.weight_bytes == pytest.approx(1e6 * weight_mb(files["large"]))
    assert spare.load_s > 0
    assert models.in_the_way(files["large"]) == []
    await models.load(files["large"])
    after = models.hello()
    assert [model.name for model in after.models] == [files["small"], files["large"]]
    assert (after.spares, after.slots, after.kv_tokens) == ((), 4, 512)
    assert after.models[1] == spare.info
    assert await says_something(models.loops[files["large"]])


async def test_what_is_loaded_takes_the_place_of_what_was_loaded_longest_ago(hold, files) -> None:
    bound = weight_mb(files["small"]) + weight_mb(files["other"]) + 1e-6
    models = hold(["small"], ["other"], bound)
    await models.load(files["other"])
    assert [*models.loops] == [files["small"], files["other"]]
    models = hold(["small"], ["other"], bound - 0.001)
    gone = weakref.ref(models.loops[files["small"]].engine)
    assert models.in_the_way(files["other"]) == [files["small"]]
    await models.load(files["other"])
    assert [*models.loops] == [files["other"]]
    gc.collect()
    assert gone() is None, "the memory of a model that has gone is free"
    [spare] = models.hello().spares
    assert spare.info.name == files["small"]
    await models.load(files["small"])
    assert await says_something(models.loops[files["small"]])


def test_a_spare_that_never_fits_is_refused_at_start(hold, files) -> None:
    with pytest.raises(ConfigError, match=r"needs .* MB of weights, model_memory_mb is"):
        hold(["small"], ["large"], weight_mb(files["small"]) + 1e-6)
    with pytest.raises(ConfigError, match="--model needs"):
        hold(["small", "other"], [], weight_mb(files["small"]) + 1e-6)


def test_a_model_is_held_or_a_spare(hold, files) -> None:
    with pytest.raises(ConfigError, match="held and a spare one: name it once"):
        hold(["small"], ["small"])


async def test_a_spare_that_cannot_be_loaded_is_none_any_more_and_the_old_one_is_back(
    hold, files
) -> None:
    def start(config: EngineConfig) -> EngineLoop:
        if config.model == files["other"]:
            raise MemoryError
        return start_engine(config)

    models = hold(["small"], ["other", "large"], weight_mb(files["large"]), start=start)
    with pytest.raises(PicertError, match="it cannot be loaded: no memory is left"):
        await models.load(files["other"])
    hello = models.hello()
    assert [model.name for model in hello.models] == [files["small"]]
    assert [spare.info.name for spare in hello.spares] == [files["large"]]
    assert await says_something(models.loops[files["small"]])
    with pytest.raises(ModelNotFound, match="cannot be loaded here"):
        models.in_the_way(files["other"])


async def test_a_file_that_is_damaged_since_the_start_is_a_load_that_fails(
    hold, files, tmp_path
) -> None:
    spare = tmp_path / "spare.gguf"
    spare.write_bytes(Path(files["other"]).read_bytes())
    models = hold(["small"], [str(spare)])
    spare.write_bytes(b"GGUF and nothing else")
    with pytest.raises(PicertError):
        await models.load(str(spare))
    assert models.hello().spares == ()
    assert await says_something(models.loops[files["small"]])


def test_only_a_spare_can_be_loaded(hold, files) -> None:
    models = hold(["small"], [])
    for name in (files["small"], "nobody"):
        with pytest.raises(ModelNotFound, match="spare models: none"):
            models.in_the_way(name)


async def test_measured_seconds_of_a_load_are_told_once_it_was_loaded(hold, files) -> None:
    ticks = iter(range(0, 1000, 7))
    bound_mb = weight_mb(files["small"]) + 1e-4
    models = hold(["small"], ["other"], bound_mb, clock=lambda: float(next(ticks)))
    await models.load(files["other"])
    assert [spare.load_s for spare in models.hello().spares] == [7.0]
