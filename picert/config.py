"""Frozen configuration, built from flags, environment and a TOML file; what is found out at start
does not go back in here.

Precedence: flags, then `PICERT_…` variables, then the file, then the defaults below. An unknown key
is an error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from picert.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EngineConfig(_Frozen):
    """One engine: a model, where it runs, and how much it may take on."""

    model: str
    runner: Literal["auto", "native", "torch"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    threads: int | None = Field(None, ge=1, description="None: the cores this process may use")
    max_model_len: int | None = Field(None, ge=16, description="None: the model's, at most 4,096")
    max_num_seqs: int = Field(32, ge=1, le=1024)
    max_num_batched_tokens: int = Field(512, ge=16)
    max_num_queued_reqs: int = Field(256, ge=1)
    block_size: int = Field(16, ge=4, le=256)
    kv_tokens: int | None = Field(None, ge=16, description="None: sized from free memory")
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    seed: int = 0
    chat_template: str | None = None


class LinkConfig(_Frozen):
    """One end of the cloud-edge link."""

    address: str = "tcp://127.0.0.1:5570"
    heartbeat_s: float = Field(1.0, ge=0.01, le=60)
    probation_beats: int = Field(3, ge=1)
    dead_beats: int = Field(8, ge=2)
    high_water_mark: int = Field(1000, ge=1, description="messages a socket queues")
    max_frame_bytes: int = Field(4 << 20, ge=1024)
    connect_timeout_s: float = Field(10.0, gt=0)


class PolicyConfig(_Frozen):
    """The knobs of progressive inference."""

    sketch_ratio: float = Field(0.25, gt=0, le=1, description="sketch tokens over answer tokens")
    min_suitability: float = Field(0.5, ge=0, le=1)
    min_answer_tokens: int = Field(80, ge=1, description="shorter predicted answers go direct")
    max_segments: int = Field(8, ge=2)
    min_segments: int = Field(2, ge=2)
    max_expansion_tokens: int = Field(96, ge=8)
    max_attempts: int = Field(2, ge=1, description="tries at edges, then the cloud writes")
    job_timeout_s: float = Field(30.0, gt=0, description="floor of a job's deadline")


class CloudConfig(_Frozen):
    """`picert-cloud`."""

    engine: EngineConfig
    link: LinkConfig = LinkConfig()
    policy: PolicyConfig = PolicyConfig()
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    served_model_name: str | None = None
    deadline_s: float = Field(300.0, gt=0)
    max_num_requests: int = Field(256, ge=1, description="questions in flight; more are a 429")
    shutdown_timeout_s: float = Field(10.0, gt=0)
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"


class EdgeConfig(_Frozen):
    """`picert-edge`: one or more models, one cloud."""

    engines: tuple[EngineConfig, ...] = Field(min_length=1)
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    link: LinkConfig = LinkConfig()
    shutdown_timeout_s: float = Field(10.0, gt=0)
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def build(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """`cls(**values)`, with pydantic's report turned into one line. Raises ConfigError."""
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or cls.__name__
        raise ConfigError(f"{key}: {first['msg']} (given {first['input']!r})", param=key) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The table in `path`. Raises ConfigError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {path}: {error}") from None


def from_environment(name: str) -> str | None:
    """The variable `PICERT_<NAME>`, or None where it is unset or empty."""
    return os.environ.get(f"PICERT_{name.upper()}") or None
