"""HeldModels: the models of one edge: engines that run, and spares that may be loaded.

It owns the engines and nothing of what they write. Where the bound on weights leaves no room, those
loaded longest ago make place; `in_the_way` says which, so that its caller can let them finish.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from picert import __version__, hub
from picert.config import EdgeConfig, EngineConfig
from picert.engine.engine import load_engine
from picert.engine.kv_cache import DEFAULT_MAX_MODEL_LEN
from picert.engine.loop import EngineLoop
from picert.errors import ConfigError, ModelNotFound, PicertError, Unavailable
from picert.log import get_logger
from picert.messages import Hello, ModelInfo, SpareModel
from picert.models.weights import load_checkpoint
from picert.pice.profile_file import ModelProfile, profile_of
from picert.transport.events import Load

logger = get_logger(__name__)
_LOAD_BYTES_PER_S = 4e8  # until it was loaded here: as fast as 0.1 to 1.1 GB were, from the cache
_STOP_S = 10.0  # for an engine's last step
Start = Callable[[EngineConfig], EngineLoop]


def start_engine(config: EngineConfig) -> EngineLoop:
    """A model that is ready to write. Raises PicertError."""
    loop = EngineLoop(load_engine(config))
    loop.start()
    return loop


@dataclass(frozen=True, slots=True)
class _Model:
    """What is known of a model without its weights in memory."""

    config: EngineConfig  # with the path of its file
    info: ModelInfo
    weight_bytes: int
    profile: ModelProfile | None


class HeldModels:
    """`loops` are those that run, by name; the same mapping all the time."""

    def __init__(
        self,
        config: EdgeConfig,
        start: Start = start_engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the models that are held from the start. Raises PicertError."""
        self._config = config
        self._start = start
        self._clock = clock
        self._known = {e.model: _read(e, config) for e in (*config.engines, *config.spares)}
        self._load_s: dict[str, float] = {}  # as measured here
        self._broken: set[str] = set()  # spares that could not be loaded
        self.loops: dict[str, EngineLoop] = {}  # in the order in which they were loaded
        self._check_bound()
        try:
            for engine in config.engines:
                self._begin(engine.model)
        except PicertError:
            self.stop()
            raise

    def in_the_way(self, name: str) -> list[str]:
        """Held models that have to go before `name` can be loaded, those loaded longest ago first.

        Raises ModelNotFound for a name that is no spare.
        """
        if name not in self._known or name in self.loops or name in self._broken:
            spares = ", ".join(spare.info.name for spare in self._spares()) or "none"
            raise ModelNotFound(f"{name[:64]!r} cannot be loaded here; spare models: {spares}")
        over = self._weight_bytes(self.loops) + self._known[name].weight_bytes - self._bound
        going: list[str] = []
        for other in self.loops:
            if over <= 0:
                break
            going.append(other)
            over -= self._known[other].weight_bytes
        return going

    async def load(self, name: str) -> None:
        """Hold a spare model; those that are in its way are stopped and their memory is free.

        Raises PicertError if it cannot be loaded: it is no spare any more, and what made place for
        it is loaded again.
        """
        going = self.in_the_way(name)
        for other in going:
            await asyncio.to_thread(self._end, other)
        try:
            await asyncio.to_thread(self._begin, name)
        except PicertError:
            self._broken.add(name)
            for other in going:
                await asyncio.to_thread(self._begin, other)
            raise

    def hello(self) -> Hello:
        """What the cloud is told of them now."""
        engines = [loop.engine for loop in self.loops.values()]
        profiles = {n: model.profile for n, model in self._known.items() if n not in self._broken}
        return Hello(
            name=self._config.name,
            picert_version=__version__,
            models=tuple(self._info(name) for name in self.loops),
            curves=tuple(p.curve(name) for name, p in profiles.items() if p is not None),
            slots=sum(engine.config.max_num_seqs for engine in engines),
            kv_tokens=sum(engine.kv_tokens for engine in engines),
            spares=tuple(self._spares()),
        )

    def _info(self, name: str) -> ModelInfo:
        longest = self.loops[name].engine.max_model_len  # its cache may hold less than was read
        return msgspec.structs.replace(self._known[name].info, max_model_len=longest)

    def load_now(self) -> Load:
        """How busy they are."""
        stats = [loop.stats() for loop in [*self.loops.values()]]
        return Load(
            num_running=sum(s.num_running for s in stats),
            num_waiting=sum(s.num_waiting for s in stats),
            kv_usage=max((s.kv_usage for s in stats), default=0.0),
        )

    def stop(self) -> None:
        """End all engines."""
        for name in [*self.loops]:
            self.loops.pop(name).stop(self._config.shutdown_timeout_s)

    @property
    def _bound(self) -> float:
        limit = self._config.model_memory_mb
        return float("inf") if limit is None else limit * 1e6

    def _weight_bytes(self, names: dict[str, EngineLoop]) -> int:
        return sum(self._known[name].weight_bytes for name in names)

    def _spares(self) -> list[SpareModel]:
        return [
            SpareModel(model.info, model.weight_bytes, self._expected_load_s(name))
            for name, model in self._known.items()
            if name not in self.loops and name not in self._broken
        ]

    def _expected_load_s(self, name: str) -> float:
        model = self._known[name]
        told = model.profile.load_s if model.profile else 0.0
        seconds = self._load_s.get(name) or told or model.weight_bytes / _LOAD_BYTES_PER_S
        return min(seconds, 3600.0)

    def _check_bound(self) -> None:
        """Each spare is one, fits alone, and what is held from the start together. Raises
        ConfigError."""
        twice = {e.model for e in self._config.engines} & {e.model for e in self._config.spares}
        if twice:
            raise ConfigError(
                f"{min(twice)} is a model that is held and a spare one: name it once",
                param="spares",
            )
        of = {name: model.weight_bytes for name, model in self._known.items()}
        needs = {spare.model: of[spare.model] for spare in self._config.spares}
        needs["--model"] = sum(of[engine.model] for engine in self._config.engines)
        for name, needed in needs.items():
            if needed > self._bound:
                raise ConfigError(
                    f"{name} needs {needed / 1e6:.0f} MB of weights, model_memory_mb is "
                    f"{self._bound / 1e6:g}: raise it or choose a smaller model",
                    param="model_memory_mb",
                )

    def _begin(self, name: str) -> None:
        began = self._clock()
        try:
            self.loops[name] = self._start(self._known[name].config)
        except (MemoryError, OSError) as error:
            reason = str(error) or "no memory is left"
            raise Unavailable(f"it cannot be loaded: {reason}") from None
        self._load_s[name] = self._clock() - began
        gc.freeze()  # what is loaded stays: no full collection need walk it between two steps
        logger.info("model %s is held, after %.1f s", name, self._load_s[name])

    def _end(self, name: str) -> None:
        loop = self.loops.pop(name)
        loop.stop(_STOP_S)
        loop.engine.close()
        del loop
        gc.unfreeze()
        gc.collect()
        logger.info("model %s has gone", name)


def _read(config: EngineConfig, edge: EdgeConfig) -> _Model:
    """From the header of its file. Raises PicertError."""
    path = hub.find(config.model)
    checkpoint = load_checkpoint(path)
    profile = None
    if edge.profile is not None:
        profile = profile_of(Path(edge.profile), config.model, checkpoint.fingerprint)
    longest = min(checkpoint.config.max_position, config.max_model_len or DEFAULT_MAX_MODEL_LEN)
    info = ModelInfo(
        *(config.model, checkpoint.fingerprint, checkpoint.num_parameters, longest),
        calibration=profile.calibration if profile else None,
    )
    weight_bytes = sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())
    return _Model(config.model_copy(update={"model": str(path)}), info, weight_bytes, profile)
