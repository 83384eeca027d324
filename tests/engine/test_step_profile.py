"""The profile of a decoder's steps: which are counted, and under what names."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from native_decoding import NativeDecoding, native_decoder

from picert import _C
from picert.models.weights import Checkpoint, load_checkpoint

PHASES = (
    *("embed", "norm", "qkv", "rope", "attention", "o", "gate_up", "activation", "down"),
    *("lm_head", "wait"),
)
TOKENS = {"a": [1, 2, 3]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return load_checkpoint(tiny_models.make_gguf(tmp_path, "smollm2", "Q8_0"))


@pytest.fixture
def decoder(checkpoint: Checkpoint) -> _C.Decoder:
    return native_decoder(checkpoint, num_threads=2)


@pytest.fixture
def decoding(checkpoint: Checkpoint, decoder: _C.Decoder) -> NativeDecoding:
    return NativeDecoding(checkpoint, decoder)


def test_profile_counts_each_phase_of_each_worker(
    decoder: _C.Decoder, decoding: NativeDecoding
) -> None:
    decoder.start_profile()
    decoding.step(TOKENS)
    decoding.step({"a": [4]})
    profile = decoder.profile()
    assert profile["num_steps"] == 2
    assert tuple(profile["seconds"]) == PHASES
    assert all(len(workers) == 2 for workers in profile["seconds"].values())
    assert all(sum(workers) > 0 for workers in profile["seconds"].values())


def test_profile_is_empty_until_started(decoder: _C.Decoder, decoding: NativeDecoding) -> None:
    decoding.step(TOKENS)
    profile = decoder.profile()
    assert profile["num_steps"] == 0
    assert all(workers == [0.0, 0.0] for workers in profile["seconds"].values())


def test_stopped_profile_keeps_what_it_has(decoder: _C.Decoder, decoding: NativeDecoding) -> None:
    decoder.start_profile()
    decoding.step(TOKENS)
    decoder.stop_profile()
    before = decoder.profile()
    decoding.step({"a": [4]})
    assert decoder.profile() == before


def test_started_anew_a_profile_forgets(decoder: _C.Decoder, decoding: NativeDecoding) -> None:
    for steps in (3, 1):
        decoder.start_profile()
        for token in range(steps):
            decoding.step({"a": [token]})
        assert decoder.profile()["num_steps"] == steps
