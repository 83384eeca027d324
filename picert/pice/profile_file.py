"""The file that `picert profile` writes and the servers read: what was measured of each model on
this machine, under the hash of its weights."""

from __future__ import annotations

from pathlib import Path

import msgspec

from picert.errors import ConfigError
from picert.messages import Calibration, SpeedCurve
from picert.pice.heads import Heads
from picert.pice.profile import Point, SpeedProfile, curve_of

_VERSION = 1


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model, as measured here."""

    model: str  # its name when it was measured; the hash is what counts
    threads: int
    load_s: float
    prefill: tuple[Point, ...]
    decode: tuple[Point, ...]
    calibration: Calibration | None = None  # of the texts that it expands
    heads: Heads | None = None  # trained on its answers

    def speed(self) -> SpeedProfile:
        """The tables, ready to be corrected by what real texts take."""
        return SpeedProfile.of_tables(self.prefill, self.decode)

    def curve(self, name: str) -> SpeedCurve:
        """What an edge tells of it, under the name that it has there."""
        return curve_of(name, self.prefill, self.decode, self.load_s)


class ProfileFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All models of one machine."""

    version: int = _VERSION
    models: dict[str, ModelProfile] = {}  # fingerprint of the weights -> what was measured

    def with_model(self, fingerprint: str, profile: ModelProfile) -> ProfileFile:
        """This, and `profile` in place of what was known of that model."""
        return ProfileFile(self.version, {**self.models, fingerprint: profile})


def read_profiles(path: Path) -> ProfileFile:
    """Raises ConfigError, in one line, for a file that cannot be read or is not what we write."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=ProfileFile)
        for profile in found.models.values():
            profile.speed()
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise ConfigError(f"profile {path}: {error}: write it with `picert profile`") from None
    if found.version != _VERSION:
        raise ConfigError(
            f"profile {path}: version is {found.version}, must be {_VERSION}: measure again"
        )
    return found


def write_profiles(path: Path, profiles: ProfileFile) -> None:
    """Replace `path` by `profiles` as a whole. Raises ConfigError if it cannot be written."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(profiles)) + b"\n")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"profile {path}: {error}") from None


def profile_of(path: Path, model: str, fingerprint: str) -> ModelProfile:
    """What `path` holds of the model with this hash. Raises ConfigError where that is nothing: a
    profile of other weights says nothing of these."""
    models = read_profiles(path).models
    if fingerprint in models:
        return models[fingerprint]
    held = ", ".join(f"{p.model} ({key[:12]})" for key, p in models.items()) or "nothing"
    raise ConfigError(
        f"profile {path} holds {held}, not {model} ({fingerprint[:12]}): "
        f"measure it with `picert profile --model {model} --out {path}`"
    )
