"""Flags made from config fields, so that a field, its flag, its variable and its file key are one
thing.

A value comes from the flag, else from `PICERT_…`, else from the file; pydantic checks it, wherever
it came from.
"""

from __future__ import annotations

import argparse
import difflib
import types
import typing
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from picert.config import (
    AccessConfig,
    CloudConfig,
    EdgeConfig,
    EngineConfig,
    LinkConfig,
    PolicyConfig,
    build,
    from_environment,
    read_toml,
)
from picert.errors import ConfigError, InvalidRequest
from picert.messages import SamplingParams

_SAMPLING = types.MappingProxyType(
    {
        "max_tokens": "most tokens to write (default 256)",
        "temperature": "0 is greedy (default 1)",
        "top_p": "draw from the likeliest tokens that make up this probability (default 1)",
        "top_k": "draw from this many of the likeliest (default 0: all)",
        "min_p": "least probability, as a share of the likeliest token's (default 0)",
        "repetition_penalty": "over 1 makes repeating less likely (default 1)",
        "seed": "the same seed gives the same text (default: another each time)",
    }
)
ConfigT = typing.TypeVar("ConfigT", bound=BaseModel)
_NO_RENAMES: Mapping[str, str] = types.MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Flag:
    """One long flag: its name without dashes, and the field of a config section that it sets."""

    name: str
    section: str  # "" for the config itself
    key: str
    field: FieldInfo
    is_repeatable: bool = False

    @property
    def variable(self) -> str:
        """The environment variable, without its prefix."""
        return self.name.replace("-", "_")


def _is_plain(annotation: Any) -> bool:
    if typing.get_origin(annotation) is tuple:
        return False
    return not (isinstance(annotation, type) and issubclass(annotation, BaseModel))


def flags_of(
    cls: type[BaseModel],
    section: str,
    renamed: Mapping[str, str] = _NO_RENAMES,
    left_out: Container[str] = (),
) -> tuple[Flag, ...]:
    """A flag for each plain field of `cls` that is not `left_out`; fields that are configs
    themselves have their own flags.
    """
    return tuple(
        Flag(renamed.get(key, key.replace("_", "-")), section, key, field)
        for key, field in cls.model_fields.items()
        if _is_plain(field.annotation) and key not in left_out
    )


_TOP_RENAMES = types.MappingProxyType(
    {"shutdown_timeout_s": "shutdown-timeout", "queue_timeout_s": "queue-timeout"}
)
ENGINE_FLAGS = flags_of(EngineConfig, "engine")
GENERATE_FLAGS = tuple(flag for flag in ENGINE_FLAGS if flag.name != "seed")  # the request has one
CLOUD_FLAGS = (
    *ENGINE_FLAGS,
    *flags_of(CloudConfig, "", _TOP_RENAMES),
    *flags_of(AccessConfig, "access"),
    *flags_of(LinkConfig, "link", {"address": "edge-bind"}, left_out=("cloud_key",)),
    *flags_of(PolicyConfig, "policy"),
)
_EDGE_LINK_FLAGS = flags_of(LinkConfig, "link", {"address": "cloud"}, left_out=("edges_file",))
POLICY_FLAGS = flags_of(PolicyConfig, "policy", left_out=("mode",))
DOCTOR_FLAGS = tuple(
    flag for flag in _EDGE_LINK_FLAGS if flag.name in ("cloud", "link-key", "cloud-key")
)
EDGE_FLAGS = (
    Flag("model", "engine", "model", EngineConfig.model_fields["model"], is_repeatable=True),
    Flag("spare-model", "engine", "spare", EdgeConfig.model_fields["spares"], is_repeatable=True),
    *ENGINE_FLAGS[1:],
    *flags_of(EdgeConfig, "", _TOP_RENAMES),
    *_EDGE_LINK_FLAGS,
)


def add_flags(parser: argparse.ArgumentParser, flags: Iterable[Flag]) -> None:
    """Give `parser` these flags, in a group for each section."""
    groups: dict[str, Any] = {}
    for flag in flags:
        if flag.section not in groups:
            groups[flag.section] = parser.add_argument_group(flag.section or "process")
        options: dict[str, Any] = {"dest": flag.name, "default": None, "help": _help(flag)}
        if flag.field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = _metavar(flag.field.annotation)
            options["action"] = "append" if flag.is_repeatable else "store"
        groups[flag.section].add_argument(f"--{flag.name}", **options)


def cloud_config(given: argparse.Namespace) -> CloudConfig:
    """The config of `picert-cloud`. Raises ConfigError that names the flag."""
    values = _collect(given, CLOUD_FLAGS)
    names = ("engine", "link", "policy", "access")
    sections = {name: _section(values, CLOUD_FLAGS, name) for name in names}
    return _build(CloudConfig, {**sections, **_section(values, CLOUD_FLAGS, "")}, CLOUD_FLAGS)


def edge_config(given: argparse.Namespace, default_name: Callable[[], str]) -> EdgeConfig:
    """The config of `picert-edge`; flags of the engine hold for each model. Raises ConfigError.

    `default_name` is asked only where none is given.
    """
    values = _collect(given, EDGE_FLAGS)
    engine = _section(values, EDGE_FLAGS, "engine")
    models, spares = engine.pop("model", []), engine.pop("spare", [])
    config = {
        "engines": [{**engine, "model": model} for model in models] or [engine],
        "spares": [{**engine, "model": model} for model in spares],
        "link": _section(values, EDGE_FLAGS, "link"),
        **_section(values, EDGE_FLAGS, ""),
    }
    if "name" not in config:
        config["name"] = default_name()
    return _build(EdgeConfig, config, EDGE_FLAGS)


def policy_config(given: argparse.Namespace, mode: str) -> PolicyConfig:
    """The policy of a cloud in `mode`. Raises ConfigError."""
    values = {**_section(_collect(given, POLICY_FLAGS), POLICY_FLAGS, "policy"), "mode": mode}
    return _build(PolicyConfig, values, POLICY_FLAGS)


def link_config(given: argparse.Namespace) -> LinkConfig:
    """An edge's end of the link, as `picert-edge` has it with these flags. Raises ConfigError."""
    values = _collect(given, EDGE_FLAGS, only=DOCTOR_FLAGS)
    return _build(LinkConfig, _section(values, DOCTOR_FLAGS, "link"), DOCTOR_FLAGS)


def engine_config(given: argparse.Namespace) -> EngineConfig:
    """The config of one engine. Raises ConfigError."""
    values = _collect(given, GENERATE_FLAGS)
    return _build(EngineConfig, _section(values, GENERATE_FLAGS, "engine"), GENERATE_FLAGS)


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flags of `sampling`."""
    group = parser.add_argument_group("sampling")
    for name, text in _SAMPLING.items():
        group.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="NUMBER", help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before it; repeatable")


def sampling(given: argparse.Namespace) -> SamplingParams | None:
    """What was asked for, None if nothing was. Raises InvalidRequest or ConfigError."""
    values = {name: getattr(given, name) for name in (*_SAMPLING, "stop")}
    values = {name: value for name, value in values.items() if value is not None}
    try:
        return msgspec.convert(values, SamplingParams, strict=False) if values else None
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InvalidRequest):
            raise error.__cause__ from None
        problem, _, place = str(error).partition(" - at `$.")
        raise ConfigError(f"--{place.rstrip('`').replace('_', '-')}: {problem}") from None


def _collect(
    given: argparse.Namespace, known: Sequence[Flag], only: Sequence[Flag] | None = None
) -> dict[str, Any]:
    """Flag name -> value, for those that were set anywhere; `only` these of the `known` ones."""
    path = getattr(given, "config", None)
    values = _file_values(Path(path), known) if path else {}
    for flag in known if only is None else only:
        from_variable = from_environment(flag.variable)
        if from_variable is not None:
            values[flag.name] = from_variable.split(",") if flag.is_repeatable else from_variable
        from_flag = getattr(given, flag.name)
        if from_flag is not None:
            values[flag.name] = from_flag
    return values


def _file_values(path: Path, flags: Sequence[Flag]) -> dict[str, Any]:
    known = {flag.name: flag for flag in flags}
    values = read_toml(path)
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "keys are the long flags, see --help"
            raise ConfigError(f"config file {path}: unknown key {key!r}: {hint}", param=key)
        if known[key].is_repeatable and not isinstance(value, list):
            values[key] = [value]
    return values


def _section(values: Mapping[str, Any], flags: Sequence[Flag], name: str) -> dict[str, Any]:
    return {
        flag.key: values[flag.name]
        for flag in flags
        if flag.section == name and flag.name in values
    }


def _build(cls: type[ConfigT], values: dict[str, Any], flags: Sequence[Flag]) -> ConfigT:
    """`config.build`, with the flag's name in the error where it has the field's."""
    try:
        return build(cls, values)
    except ConfigError as error:
        place = error.param or ""
        key = place.rpartition(".")[2]
        flag = next((flag for flag in flags if flag.key == key), None)
        if flag is None:
            raise
        problem = error.message.removeprefix(f"{place}: ")
        if problem.startswith("Field required"):
            raise ConfigError(f"--{flag.name} is required: see --help", param=flag.name) from None
        problem = problem.replace("Input should be", "must be")
        raise ConfigError(f"--{flag.name} {problem}", param=flag.name) from None


def _help(flag: Flag) -> str:
    """What the flag is for, and what holds without it."""
    text = flag.field.description or ""
    if not flag.field.is_required() and flag.field.default is not None:
        text += f" (default {flag.field.default})"
    return text.strip().replace("%", "%%")


def _metavar(annotation: Any) -> str:
    """`auto|native|torch`, `INT`, `TEXT`, …"""
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "|".join(str(choice) for choice in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return _metavar(next(a for a in typing.get_args(annotation) if a is not type(None)))
    names = {int: "INT", float: "NUMBER"}
    return names.get(annotation, "TEXT")
