"""Sizing of the K/V cache."""

import pytest

from picert.config import EngineConfig
from picert.engine.kv_cache import KvPlan, plan_kv
from picert.errors import ConfigError

GB = 1 << 30


def plan(available: int = 100 * GB, max_position: int = 2048, **fields: object) -> KvPlan:
    config = EngineConfig(model="m", **fields)  # type: ignore[arg-type]
    return plan_kv(
        config, max_position=max_position, bytes_per_token=20_000, available_bytes=available
    )


def test_every_sequence_gets_full_length_where_that_is_little() -> None:
    assert plan(max_num_seqs=3).num_tokens == 3 * 2048


def test_enough_is_enough_for_many_sequences() -> None:
    assert plan(max_num_seqs=1000).num_tokens == 32_768


def test_long_contexts_get_four_of_them() -> None:
    got = plan(max_num_seqs=1000, max_model_len=10_000, max_position=100_000)
    assert got.num_tokens == 40_000


def test_no_more_than_a_quarter_of_the_free_memory_is_taken() -> None:
    assert plan(available=GB).num_tokens == pytest.approx(GB / 4 / 20_000, abs=16)


def test_a_device_gives_four_fifths_of_its_memory_and_no_more_than_the_sequences_need() -> None:
    def on_device(available: int, num_seqs: int) -> KvPlan:
        return plan_kv(
            EngineConfig(model="m", max_num_seqs=num_seqs),
            max_position=2048,
            bytes_per_token=20_000,
            available_bytes=available,
            is_device=True,
        )

    assert on_device(10 * GB, 1000).num_tokens == pytest.approx(8 * GB / 20_000, abs=16)
    assert on_device(10 * GB, 100).num_tokens == 100 * 2048


def test_model_length_is_capped_at_the_default() -> None:
    assert plan(max_position=131_072).max_model_len == 4096


def test_context_shrinks_to_a_small_cache() -> None:
    got = plan(kv_tokens=100)
    assert (got.num_blocks, got.max_model_len) == (7, 112)


@pytest.mark.parametrize(
    ("available", "fields", "words"),
    [
        (GB, {"max_model_len": 3000}, r"max_model_len is 3,000, the model has 2,048 positions"),
        (GB, {"kv_tokens": 10**6}, r"kv_tokens is 1,000,000, 20,000,000,000 bytes"),
        (GB, {"kv_tokens": 64, "max_model_len": 65}, r"max_model_len is 65, .* holds 64 tokens"),
        (0, {}, r"the K/V cache holds 0 tokens"),
    ],
)
def test_contradictions_are_refused(available: int, fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(available=available, **fields)
