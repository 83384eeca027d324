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
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from picert.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EngineConfig(_Frozen):
    """One engine: a model, where it runs, and how much it may take on."""

    model: str = Field(description="a name that `picert list` shows, a path or a Hugging Face id")
    runner: Literal["auto", "native", "torch"] = Field(
        "auto", description="native is the C++ decoder, for GGUF on a CPU; torch runs anywhere"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of weights and arithmetic in the torch runner"
    )
    quantization: Literal["auto", "none", "q4", "q8"] = Field(
        "auto", description="of floating-point weights when loaded; auto and none keep the file's"
    )
    cuda_graphs: bool = Field(True, description="on a GPU, a decode step is one captured launch")
    async_scheduling: bool = Field(
        True, description="on a GPU, a step is launched before the tokens of the last are here"
    )
    threads: int | None = Field(None, ge=1, description="without it, the cores it may use")
    threads_bind: str = Field(
        "none",
        pattern=r"^(none|auto|\d+(-\d+)?(,\d+(-\d+)?)*)$",
        description="processors of the threads, such as 0-3,8; auto is one thread a core",
    )
    max_model_len: int | None = Field(
        None, ge=16, description="tokens; else the model's, at most 4,096"
    )
    max_num_seqs: int = Field(32, ge=1, le=1024, description="texts written at once")
    max_num_batched_tokens: int = Field(512, ge=16, description="tokens of one step")
    max_num_queued_reqs: int = Field(256, ge=1, description="more are refused")
    max_num_queued_tokens: int = Field(65536, ge=1, description="of prompts that wait")
    block_size: int = Field(16, ge=4, le=256, description="tokens of a KV block")
    kv_cache_dtype: Literal["auto", "fp16", "int8"] = Field(
        "auto", description="of keys and values; auto is fp16, or dtype in the torch runner"
    )
    kv_tokens: int | None = Field(None, ge=16, description="of KV cache; else by free memory")
    enable_prefix_caching: bool = Field(True, description="compute shared prefixes once")
    enable_chunked_prefill: bool = Field(True, description="long prompts in several steps")
    seed: int = Field(0, description="of requests that bring none")
    chat_template: str | None = Field(None, description="Jinja text, instead of the model's own")


class LinkConfig(_Frozen):
    """One end of the cloud-edge link."""

    address: str = Field("tcp://127.0.0.1:5570", description="where cloud and edges meet")
    heartbeat_s: float = Field(1.0, ge=0.01, le=60, description="seconds between signs of life")
    probation_beats: int = Field(3, ge=1, description="missed ones until no new jobs")
    dead_beats: int = Field(8, ge=2, description="missed ones until its jobs move")
    high_water_mark: int = Field(1000, ge=1, description="messages a socket queues")
    max_frame_bytes: int = Field(4 << 20, ge=1024, description="larger ones are refused")
    connect_timeout_s: float = Field(10.0, gt=0, description="then an edge gives up")
    link_key: str | None = Field(None, description="secret key file of this end: encrypts the link")
    edges_file: str | None = Field(
        None, description="public keys of edges; else edges in the config folder"
    )
    cloud_key: str | None = Field(None, description="public key of the cloud, 64 hex digits")


class AccessConfig(_Frozen):
    """Who may use the HTTP side, and over what."""

    api_key: SecretStr | None = Field(None, description="what clients must send as Bearer")
    api_key_file: str | None = Field(None, description="such keys, one a line")
    admin_api_key: SecretStr | None = Field(None, description="opens /admin too")
    admin_api_key_file: str | None = Field(None, description="such keys, one a line")
    insecure: bool = Field(False, description="serve other machines without a key")
    allowed_origins: str = Field("", description="of web pages that may ask, comma-separated")
    ssl_keyfile: str | None = Field(None, description="PEM; with it HTTP becomes HTTPS")
    ssl_certfile: str | None = Field(None, description="PEM, the whole chain")
    uds: str | None = Field(None, description="serve on this Unix socket, not on a port")


Mode = Literal["pice", "direct", "edge_only", "router", "sot", "static"]
Part = Literal["eager_dispatch", "grouping", "lists", "switching", "ensemble", "repair", "price"]
Discipline = Literal["lists", "fifo", "shortest_first", "round_robin", "least_loaded"]
# What a baseline is without, whatever the switches say.
_WITHOUT: Mapping[Mode, frozenset[Part]] = MappingProxyType(
    {"static": frozenset({"lists", "ensemble", "price"})}
)


class PolicyConfig(_Frozen):
    """The knobs of progressive inference.

    `mode` is pice itself or a baseline in the same runtime; a request that names its route is
    served by that route in every mode. The switches take single parts out.
    """

    mode: Mode = Field(
        "pice",
        description="direct and edge_only: one model writes all; router: suitability sends the "
        "whole question to one or the other; sot: the cloud expands its own sketch; static: "
        "sketches of one level, first in first out, no ensemble",
    )
    eager_dispatch: bool = Field(True, description="expand a line while the next is written")
    grouping: bool = Field(True, description="neighbouring segments may share a job")
    lists: bool = Field(True, description="jobs wait in lists by length, not in one queue")
    dispatch: Discipline = Field(
        "lists",
        description="lists: by length, to the edge that is done first; fifo, shortest_first: one "
        "queue, to the edge longest unused; round_robin, least_loaded: in order of arrival, to the "
        "next edge in turn or to the one with the largest share of its places free",
    )
    switch_slack_s: float = Field(
        10.0, gt=0, description="in which edges shall be done with what waits, else a smaller model"
    )
    switch_dwell_s: float = Field(
        10.0, ge=0, description="least time between two switches of an edge's model"
    )
    aging_s: float = Field(2.0, ge=0, description="wait after which a job goes before longer lists")
    switching: bool = Field(True, description="the load decides which model an edge runs")
    ensemble: bool = Field(True, description="several candidates of a segment on idle edges")
    repair: bool = Field(True, description="the cloud rewrites what no edge wrote well")
    price: bool = Field(True, description="the cloud's backlog makes sketches likelier, shorter")
    slo_s: float | None = Field(
        None, gt=0, description="seconds an answer may take; else what an idle cloud needs for it"
    )
    slack: float = Field(0.03, ge=0, description="share that a plan may be slower than direct")
    w_latency: float = Field(1.0, ge=0, description="worth of one slo of waiting")
    w_quality: float = Field(2.0, ge=0, description="worth of a direct answer's quality")
    min_quality: float = Field(
        0.25, ge=0, le=1, description="share of a direct answer's that a plan must reach"
    )
    min_points_share: float = Field(
        0.75, ge=0, le=1, description="of the answer's points that a sketch holds, whatever waits"
    )
    backlog_target_s: float = Field(
        4.0, gt=0, description="seconds of waiting work from which the price rises"
    )
    price_rate: float = Field(
        0.1, ge=0, description="rise of the price in a second, for each second over the target"
    )
    sketch_ratio: float = Field(
        0.25, gt=0, le=1, description="sketch tokens over answer tokens, in modes static and sot"
    )
    min_suitability: float = Field(
        0.5, ge=0, le=1, description="threshold of modes router, static and sot"
    )
    min_answer_tokens: int = Field(80, ge=1, description="shorter predicted answers go direct")
    max_segments: int = Field(8, ge=2, description="lines of a sketch")
    min_segments: int = Field(2, ge=2, description="fewer are answered directly")
    max_expansion_tokens: int = Field(96, ge=8, description="of one segment")
    confidence_floor: float = Field(
        0.15, ge=0, le=1, description="segments whose best candidate is under it are repaired"
    )
    w_logprob: float = Field(0.1, ge=0, description="in a candidate's confidence, per deviation")
    w_coverage: float = Field(0.4, ge=0, description="of its segment's words, in the same")
    w_length: float = Field(0.2, ge=0, description="of the expected length, in the same")
    w_consensus: float = Field(0.3, ge=0, description="with other candidates, in the same")
    w_cloud_check: float = Field(
        0.0,
        ge=0,
        description="of what the cloud's model thinks of a candidate beside the others of its "
        "segment, per deviation, where several are fit; it reads each of them; 0: it is not asked",
    )
    cloud_check_s: float = Field(
        0.5,
        gt=0,
        description="a segment waits for that at most, and so long for other candidates before",
    )
    max_attempts: int = Field(2, ge=1, description="tries at edges, then the cloud writes")
    job_timeout_s: float = Field(30.0, gt=0, description="floor of a job's deadline")

    @property
    def discipline(self) -> Discipline:
        """How waiting jobs are given out: `dispatch`, unless lists are switched off."""
        return self.dispatch if self.dispatch != "lists" or self.uses("lists") else "fifo"

    def uses(self, part: Part) -> bool:
        """Whether `part` is at work: switched on, and not what this mode is without."""
        return bool(getattr(self, part)) and part not in _WITHOUT.get(self.mode, ())


class CloudConfig(_Frozen):
    """`picert-cloud`."""

    engine: EngineConfig
    link: LinkConfig = LinkConfig()
    policy: PolicyConfig = PolicyConfig()
    profile: str | None = Field(
        None, description="file of `picert profile`; else speeds are learned from what is served"
    )
    access: AccessConfig = AccessConfig()
    host: str = Field("127.0.0.1", description="HTTP address; beyond loopback with a key only")
    port: int = Field(8000, ge=0, le=65535, description="HTTP; 0 is any free one")
    served_model_name: str | None = Field(None, description="else the model's name")
    deadline_s: float = Field(300.0, gt=0, description="of a question that names none")
    queue_timeout_s: float = Field(60.0, gt=0, description="a question may wait for its turn")
    max_num_requests: int = Field(256, ge=1, description="questions in flight; more are a 429")
    shutdown_timeout_s: float = Field(10.0, gt=0, description="seconds to finish in")
    otlp_endpoint: str | None = Field(
        None, description="send traces to this URL (extra otel), like http://HOST:4318/v1/traces"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


class EdgeConfig(_Frozen):
    """`picert-edge`: one or more models, one cloud."""

    engines: tuple[EngineConfig, ...] = Field(min_length=1)
    spares: tuple[EngineConfig, ...] = Field(
        (), description="model that may be loaded while it runs, repeatable"
    )
    model_memory_mb: float | None = Field(
        None, gt=0, description="of weights held at once: beyond, a model takes another's place"
    )
    profile: str | None = Field(
        None, description="file of `picert profile` with each of the models"
    )
    name: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="else the host's name and a number that is kept",
    )
    link: LinkConfig = LinkConfig()
    metrics_port: int | None = Field(None, ge=0, le=65535, description="serve /metrics there")
    metrics_host: str = Field("127.0.0.1", description="address of the metrics port")
    shutdown_timeout_s: float = Field(10.0, gt=0, description="seconds to finish in")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def build(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """`cls(**values)`, with pydantic's report turned into one line. Raises ConfigError."""
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or cls.__name__
        given = "" if key.endswith("api_key") else f" (given {first['input']!r})"
        raise ConfigError(f"{key}: {first['msg']}{given}", param=key) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The table in `path`. Raises ConfigError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {path}: {error}") from None


def from_environment(name: str) -> str | None:
    """The variable `PICERT_<NAME>`, or None where it is unset or empty."""
    return os.environ.get(f"PICERT_{name.upper()}") or None
