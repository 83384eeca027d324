"""How many blocks of paged K/V memory an engine gets. The memory itself belongs to its runner."""

from __future__ import annotations

from dataclasses import dataclass

from picert.config import EngineConfig
from picert.errors import ConfigError

DEFAULT_MAX_MODEL_LEN = 4096
MEMORY_SHARE = 0.25  # of what the machine has free, where `kv_tokens` is not given
DEVICE_SHARE = 0.8  # of a device's memory; activations and captured steps take of the rest
ENOUGH_TOKENS = 32_768  # nor more than this or four full contexts of the machine's


@dataclass(frozen=True, slots=True)
class KvPlan:
    """The cache's size and the longest sequence that it can serve."""

    num_blocks: int
    block_size: int
    max_model_len: int  # tokens of prompt and completion together

    @property
    def num_tokens(self) -> int:
        """Tokens that fit."""
        return self.num_blocks * self.block_size


def plan_kv(
    config: EngineConfig,
    *,
    max_position: int,
    bytes_per_token: int,
    available_bytes: int,
    is_device: bool = False,
) -> KvPlan:
    """Size the cache. `bytes_per_token` is what one token's K and V take in all layers.

    With `kv_tokens` unset: room for every one of `max_num_seqs` sequences at full length, but on a
    device no more than four fifths of what it has left, and of a machine that serves others, too,
    no more than a quarter and than max(4 x max_model_len, 32,768) tokens, as sequences are mostly
    short and preemption serves the rest. The longest sequence shrinks to the
    cache if the config left both open. Raises ConfigError for what contradicts or does not fit.
    """
    max_len = _max_model_len(config, max_position)
    affordable = available_bytes // max(1, bytes_per_token)
    if config.kv_tokens is not None:
        num_tokens = config.kv_tokens
        if num_tokens > affordable:
            raise ConfigError(
                f"kv_tokens is {num_tokens:,}, {num_tokens * bytes_per_token:,} bytes, only "
                f"{available_bytes:,} are free: lower kv_tokens to at most {affordable:,}",
                param="kv_tokens",
            )
    else:
        num_tokens = min(config.max_num_seqs * max_len, _fair(affordable, max_len, is_device))
    num_blocks = -(-num_tokens // config.block_size)
    if num_blocks * config.block_size < max_len:
        max_len = _shrunk(config, max_len, num_blocks * config.block_size)
    return KvPlan(num_blocks, config.block_size, max_len)


def _fair(affordable: int, max_len: int, is_device: bool) -> int:
    """Tokens that may be taken unasked of those that would fit."""
    if is_device:
        return int(affordable * DEVICE_SHARE)
    return min(max(4 * max_len, ENOUGH_TOKENS), int(affordable * MEMORY_SHARE))


def _max_model_len(config: EngineConfig, max_position: int) -> int:
    if config.max_model_len is None:
        return min(max_position, DEFAULT_MAX_MODEL_LEN)
    if config.max_model_len > max_position:
        raise ConfigError(
            f"max_model_len is {config.max_model_len:,}, the model has {max_position:,} positions: "
            "lower max_model_len",
            param="max_model_len",
        )
    return config.max_model_len


def _shrunk(config: EngineConfig, max_len: int, kv_tokens: int) -> int:
    if config.max_model_len is not None or kv_tokens < 16:
        raise ConfigError(
            f"max_model_len is {max_len:,}, the K/V cache holds {kv_tokens:,} tokens: lower "
            "max_model_len, raise kv_tokens or free memory",
            param="max_model_len",
        )
    return kv_tokens
