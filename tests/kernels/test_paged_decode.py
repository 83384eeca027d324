"""paged_decode against torch_ops in float64: alone, split, and over shared prefixes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from gpu_kernels import DTYPES, assert_near, drawn_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_attention import Heads, Inputs, far_apart, paged_inputs

from picert.errors import ConfigError
from picert.kernels import paged_decode as decode_module
from picert.kernels.paged_decode import paged_decode
from picert.kernels.shared_prefix import PIECE, Bounds, find_shared_prefixes

HEADS = Heads(kv=2, group=3, dim=64)
pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")
PLAIN: dict[str, Any] = {"scale": 0.125, "sliding_window": None, "soft_cap": None}


def attend(inputs: Inputs, options: dict[str, Any]) -> torch.Tensor:
    return paged_decode(inputs.q, inputs.k_cache, inputs.v_cache, inputs.meta, **options)


def assert_is_attention(inputs: Inputs, options: dict[str, Any]) -> None:
    # Roundings: of each weight and of the result.
    assert_near(attend(inputs, options), inputs.wanted(options), inputs.q.dtype, roundings=2)


def decoding(lengths: list[int], heads: Heads, **other: Any) -> Inputs:
    return paged_inputs(lengths, [1] * len(lengths), heads, **other)


@drawn_inputs
@given(
    lengths=st.lists(
        st.one_of(st.integers(1, 150), st.integers(PIECE - 1, 2 * PIECE + 1)),
        min_size=1,
        max_size=3,
    ),
    heads=st.builds(
        Heads,
        kv=st.integers(1, 2),
        group=st.one_of(st.integers(1, 9), st.integers(17, 70)),
        dim=st.sampled_from((64, 80, 96, 128, 256, 8)),
    ),
    block_size=st.sampled_from((1, 4, 16, 64)),
    window=st.sampled_from((None, 1, 70, PIECE + 3)),
    cap=st.sampled_from((None, 0.5, 30.0)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_attention_is_that_of_torch_ops(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    lengths: list[int],
    heads: Heads,
    block_size: int,
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    inputs = decoding(lengths, heads, block_size=block_size, dtype=dtype, device=device, seed=seed)
    options = {"scale": heads.dim**-0.5, "sliding_window": window, "soft_cap": cap}
    assert_is_attention(inputs, options)


def test_result_does_not_depend_on_neighbours_or_the_number_of_programs(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = decoding([3, 2 * PIECE + 70, PIECE, 700], HEADS, dtype=torch.bfloat16, device=device)
    together = attend(inputs, PLAIN)
    monkeypatch.setattr(decode_module, "num_sms", lambda _: 1000)
    assert torch.equal(attend(inputs, PLAIN), together)
    for seq in range(4):
        assert torch.equal(attend(inputs.of_sequence(seq), PLAIN)[0], together[seq])


def test_longer_maximum_changes_no_bit(device: torch.device) -> None:
    inputs = decoding([40, 300], HEADS, device=device)
    captured = replace(inputs, meta=replace(inputs.meta, max_context_len=5 * PIECE))
    assert torch.equal(attend(captured, PLAIN), attend(inputs, PLAIN))


@pytest.mark.parametrize("longest", [PIECE, 3 * PIECE])
def test_sequences_without_tokens_get_zeros(device: torch.device, longest: int) -> None:
    inputs = decoding([20, 1], HEADS, device=device)
    meta = replace(inputs.meta, max_context_len=longest)
    wanted = inputs.wanted(PLAIN)
    meta.context_lens[1] = 0
    out = attend(replace(inputs, meta=meta), PLAIN)
    assert_near(out[0], wanted[0], torch.float16, roundings=2)
    assert (out[1] == 0).all()


@pytest.mark.parametrize("length", [140, 2 * PIECE + 140])
def test_nothing_before_the_window_is_read(device: torch.device, length: int) -> None:
    inputs = decoding([length], HEADS, device=device)
    options = {**PLAIN, "sliding_window": 9}
    wanted = inputs.wanted(options)
    blocks = inputs.meta.block_tables[0, : (length - 9) // 16].long()
    for cache in (inputs.k_cache, inputs.v_cache):
        cache[blocks] = torch.nan
    assert_near(attend(inputs, options), wanted, torch.float16, roundings=2)


def test_caches_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    assert_is_attention(far_apart(decoding([60, 50], HEADS, device=device)), PLAIN)


def sharing(tree: list[tuple[int, int]], rests: list[int], heads: Heads, **other: Any) -> Inputs:
    """Sequences over shared blocks of 16: a node of `tree` is (parent or -1, blocks).

    Sequence i goes on from node i, modulo their number, with so many tokens of its own.
    """
    fresh = iter(torch.randperm(4096, generator=torch.Generator().manual_seed(5)).tolist())
    paths: list[list[int]] = []
    for parent, num_blocks in tree:
        above = [] if parent < 0 else paths[parent]
        paths.append([*above, *(next(fresh) for _ in range(num_blocks))])
    tables = [
        [*paths[seq % len(paths)], *(next(fresh) for _ in range(-(-rest // 16)))]
        for seq, rest in enumerate(rests)
    ]
    lengths = [16 * len(paths[seq % len(paths)]) + rest for seq, rest in enumerate(rests)]
    return decoding(lengths, heads, tables=tables, **other)


def shared(inputs: Inputs) -> Inputs:
    """The same with its runs, of which there are some."""
    tables, lengths = (
        x.cpu().numpy() for x in (inputs.meta.block_tables, inputs.meta.context_lens)
    )
    found = find_shared_prefixes(tables, lengths, inputs.k_cache.shape[1])
    assert found is not None
    return replace(inputs, meta=replace(inputs.meta, shared_prefixes=found.to(inputs.q.device)))


# A prompt of 544 tokens; two sketches on it, of 96 and of 528 tokens; texts on the prompt alone.
SKETCHES = [(-1, 34), (0, 6), (0, 33)]


@settings(parent=drawn_inputs, max_examples=8)
@given(
    rests=st.lists(st.integers(0, 40), min_size=4, max_size=6),
    heads=st.builds(
        Heads, kv=st.just(1), group=st.integers(1, 9), dim=st.sampled_from((64, 96, 256))
    ),
    window=st.sampled_from((None, 5, 30, 700)),
    cap=st.sampled_from((None, 0.5)),
    dtype=st.sampled_from(DTYPES),
)
def test_shared_prefixes_change_no_result(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    rests: list[int],
    heads: Heads,
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
) -> None:
    inputs = sharing(SKETCHES, rests, heads, dtype=dtype, device=device)
    options = {"scale": heads.dim**-0.5, "sliding_window": window, "soft_cap": cap}
    assert_is_attention(shared(inputs), options)


def test_shared_blocks_are_read_for_one_member_alone(device: torch.device) -> None:
    inputs = shared(sharing([(-1, 48)], [3, 5, 7], HEADS, device=device))
    wanted = inputs.wanted(PLAIN)
    tables, runs = inputs.meta.block_tables, inputs.meta.shared_prefixes
    assert runs is not None
    reader = int(runs.members[0])
    unused = next(iter(set(range(len(inputs.k_cache))) - set(tables.flatten().tolist())))
    others = [seq for seq in range(3) if seq != reader]
    tables[others, :48] = unused  # whose values are NaN
    assert_near(attend(inputs, PLAIN), wanted, torch.float16, roundings=2)


def test_result_does_not_depend_on_who_else_shares(device: torch.device) -> None:
    inputs = shared(sharing([(-1, 48)], [3, 5, 7, 9, 9, 9], HEADS, device=device))
    runs = inputs.meta.shared_prefixes
    assert runs is not None
    # The first ones keep their rows: numpy, which multiplies for the interpreter, gives a product
    # other bits in another row.
    kept = runs.members[:4].sort().values.long()
    meta = replace(
        inputs.meta,
        block_tables=inputs.meta.block_tables[kept],
        context_lens=inputs.meta.context_lens[kept],
    )
    part = shared(replace(inputs, q=inputs.q[kept], meta=meta))
    assert torch.equal(attend(part, PLAIN), attend(inputs, PLAIN)[kept])


def test_runs_padded_for_a_captured_launch_change_no_bit(device: torch.device) -> None:
    inputs = shared(sharing(SKETCHES, [9] * 7, HEADS, device=device))
    runs = inputs.meta.shared_prefixes
    assert runs is not None
    room = Bounds(
        num_runs=6, num_members=40, members_of_run=30, pieces_of_run=9, runs_of_sequence=5
    )
    padded = replace(inputs, meta=replace(inputs.meta, shared_prefixes=runs.padded(room)))
    assert torch.equal(attend(padded, PLAIN), attend(inputs, PLAIN))
    with pytest.raises(ConfigError, match="room is for"):
        runs.padded(replace(room, num_runs=1))
