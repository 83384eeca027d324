"""Machines: which model runs where and how fast: measured by `picert profile`, or derived from
published numbers in a file that names the source of each.

What is derived is a roofline: a step reads all weights and the keys and values of its texts once,
or computes as long as its tokens ask for, whichever takes longer. It is a bound made smaller by
shares that the file states as assumptions, not a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from picert.errors import ConfigError, ModelNotFound
from picert.pice.profile import Point
from picert.pice.profile_file import ModelProfile, ProfileFile
from picert.simulate.engine import EngineLimits
from picert.simulate.system import Runs

OWN_FILE = Path(__file__).parent / "machines.json"
_VERSION = 1
_PROMPT_TOKENS = (32, 128, 512, 2048)
_PROMPTS = (1, 4)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (64, 1024)
_KV_SHARE = 0.9  # of the memory that weights leave
_MAX_KV_TOKENS = 2**24


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number, and where it is from."""

    value: float
    source: str


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step is bounded by."""

    bytes_per_s: Number
    flops: Number  # of dense products a second, at the models' precision
    memory_bytes: Number
    slots: Number  # texts written at once


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step takes."""

    num_parameters: Number
    weight_bytes: Number
    kv_bytes_per_token: Number


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a machine's bounds is reached, and what a step costs beside."""

    bandwidth: Number
    flops: Number
    step_s: Number


class MachineFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models and machines, to be combined as MODEL@MACHINE."""

    version: int = _VERSION
    shares: Shares
    machines: dict[str, Machine]
    models: dict[str, Model]


def read_machines(path: Path) -> MachineFile:
    """Raises ConfigError for a file that cannot be read or is none of machines."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=MachineFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"machines {path}: {error}") from None
    if found.version != _VERSION:
        raise ConfigError(f"machines {path}: version is {found.version}, must be {_VERSION}")
    return found


class Fleet:
    """What can be simulated: the models of a profile, and MODEL@MACHINE of a file of machines."""

    def __init__(
        self, profiles: ProfileFile, machines: MachineFile, believed: ProfileFile | None = None
    ) -> None:
        """`believed` is what the service is told of measured models, where that is not true."""
        self._profiles = {profile.model: profile for profile in profiles.models.values()}
        self._believed = {p.model: p for p in believed.models.values()} if believed else {}
        self._machines = machines

    def runs(self, name: str, max_num_queued_reqs: int = 256) -> Runs:
        """Raises ModelNotFound."""
        profile = self._profiles.get(name)
        if profile is not None:
            size = round(1e12 * profile.speed().decode_seconds(1))  # slower stands for larger
            limits = EngineLimits(max_num_queued_reqs=max_num_queued_reqs)
            return Runs(name, profile, size, limits, self._believed.get(name))
        model_name, _, machine_name = name.partition("@")
        model = self._machines.models.get(model_name)
        machine = self._machines.machines.get(machine_name)
        if model is None or machine is None:
            known = [*self._profiles, *(f"{m}@…" for m in self._machines.models)]
            places = ", ".join(self._machines.machines)
            raise ModelNotFound(f"{name!r} is none of {', '.join(known)} on {places}")
        return self._derived(name, model, machine, max_num_queued_reqs)

    def _derived(self, name: str, model: Model, machine: Machine, queued: int) -> Runs:
        left = machine.memory_bytes.value - model.weight_bytes.value
        kv_tokens = min(_MAX_KV_TOKENS, int(_KV_SHARE * left / model.kv_bytes_per_token.value))
        if kv_tokens < 4096:
            raise ConfigError(f"{name}: the weights leave no room for keys and values there")
        profile = derived_profile(name, model, machine, self._machines.shares)
        limits = EngineLimits(int(machine.slots.value), 2048, queued, kv_tokens)
        return Runs(name, profile, int(model.num_parameters.value), limits)


def derived_profile(name: str, model: Model, machine: Machine, shares: Shares) -> ModelProfile:
    """Tables as `picert profile` would write them, from bounds."""
    bandwidth = machine.bytes_per_s.value * shares.bandwidth.value
    flops = machine.flops.value * shares.flops.value

    def seconds(tokens: int, kv_tokens: float) -> float:
        moved = model.weight_bytes.value + kv_tokens * model.kv_bytes_per_token.value
        computed = 2 * model.num_parameters.value * tokens
        return shares.step_s.value + max(moved / bandwidth, computed / flops)

    def prefill() -> Iterator[Point]:
        for tokens in _PROMPT_TOKENS:
            for count in _PROMPTS:
                yield tokens, count, seconds(tokens * count, tokens * count)

    def decode() -> Iterator[Point]:
        for batch in _BATCHES:
            for context in _CONTEXTS:
                yield batch, context, seconds(batch, batch * context)

    return ModelProfile(
        model=name, threads=1, load_s=0.0, prefill=tuple(prefill()), decode=tuple(decode())
    )
