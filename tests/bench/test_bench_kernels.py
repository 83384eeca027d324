"""The kernel benchmark: its inputs, checks and rows on tiny launches; and no card is a plain no."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_kernels  # noqa: F401 - skips where triton is not installed
import pytest
import torch
from bench_kernels import idle_configs, idle_row, launches
from card import Card, sheet_of
from kernel_problems import PROBLEMS, works_of
from kernel_timing import Launch, Rig, timed_rows
from problem import Draw, Problem

from picert.kernels.devices import A100, H100, ORIN
from picert.kernels.launch import ModelShape, StepShape
from picert.kernels.machine_code import MachineCode
from picert.kernels.registry import KERNELS

ROOT = Path(__file__).parent.parent.parent
CPU = torch.device("cpu")
TINY = ModelShape("tiny", 128, 160, 4, 2, 64, 500, 1)
DECODE, PREFILL = StepShape(2, 1, 40), StepShape(2, 20, 40)
LONG = StepShape(4, 1, 1200)  # long enough for a second pass, and for half of it to be shared
STEP_OF = {
    "paged_prefill": PREFILL,
    "quant_linear_tiled": PREFILL,
    "paged_decode_shared": LONG,
}


def test_every_configuration_has_a_line() -> None:
    launched = {(kernel.name, work.config.name) for kernel, _, _, work in launches(H100.num_sms)}
    others = [*idle_configs("rms_norm", launched), *idle_configs(None, launched)]
    every = {(kernel.name, config.name) for kernel in KERNELS for config in kernel.configs}
    assert launched | {*others} == every
    assert launched.isdisjoint(others)
    assert ("silu_mul", "gelu") in others


def test_line_of_a_configuration_that_is_not_launched_has_its_code_and_no_limit() -> None:
    code = MachineCode("silu_mul", "gelu", "fp16", 90, 4, 32, 0, 0, {"LDG.E.128": 2})
    found = idle_row(code, H100)
    assert (found["registers"], found["spills"], found["occupancy"]) == (32, 0, 1.0)
    assert found["limit_us"] is None
    assert found["reason"] == "none of these models launches it"


def problem_of(name: str) -> Problem:
    draw = Draw.of(CPU, torch.float16, 0)
    return PROBLEMS[name](TINY, STEP_OF.get(name, DECODE), draw)


def test_every_kernel_is_timed_alone_or_behind_another() -> None:
    timed = [
        work.config
        for name in PROBLEMS
        for step in (DECODE, PREFILL, LONG)
        for work in works_of(name, TINY, step, H100.num_sms)
    ]
    for kernel in KERNELS:
        assert any(config in timed for config in kernel.configs), kernel.name


@pytest.mark.parametrize("name", PROBLEMS)
def test_right_results_pass_the_check_and_others_do_not(name: str) -> None:
    problem = problem_of(name)
    assert problem.error() is None

    def wrong() -> torch.Tensor:
        found = problem.run()
        return (found + 1) % TINY.vocab if name == "sample" else found.fill_(float("nan"))

    assert "off by" in str(replace(problem, run=wrong).error())


@pytest.mark.parametrize("name", ["paged_prefill", "paged_decode"])  # the third shares blocks
def test_torch_computes_the_same_attention(name: str) -> None:
    problem = problem_of(name)
    theirs = problem.peers["torch SDPA, contiguous"]()()
    assert isinstance(theirs, torch.Tensor)
    ours = problem.run().view(2, -1, TINY.num_heads, TINY.head_dim).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


def launch_of(name: str, step: StepShape) -> Launch:
    (kernel,) = (kernel for kernel in KERNELS if kernel.name == name)
    work = kernel.work(TINY, step, H100.num_sms)
    assert work is not None
    return kernel, TINY, step, work


def in_microseconds(times: list[float]) -> Callable[[list[Callable[[], object]]], list[float]]:
    """Runs what it is to time, and says that it took these."""

    def time(runs: list[Callable[[], object]]) -> list[float]:
        for run in runs:
            run()
        return times

    return time


def rows_of(launch: Launch, card: Card, micros: list[float]) -> Iterator[dict[str, Any]]:
    draw = Draw.of(CPU, torch.float16, 0)
    return timed_rows([launch], Rig(card, draw, in_microseconds(micros)))


CARD = Card("NVIDIA H100 80GB HBM3", l2_bytes=1, num_sms=H100.num_sms, sheet=H100)


def test_row_states_times_rates_and_the_share_of_the_limit() -> None:
    launch = launch_of("quant_linear_skinny", DECODE)
    rows = rows_of(launch, CARD, [2.0, 4.0, 9.0])
    (row,) = rows
    assert (row["kernel"], row["device"], row["dtype"]) == (launch[0].name, CARD.name, "float16")
    assert row["p20_us"] < row["p50_us"] == 4.0 < row["p80_us"]
    # The kernel that adds the parts is launched behind it, so its bytes count.
    assert row["bytes"] > launch[3].bytes
    assert row["gb_per_s"] == pytest.approx(row["bytes"] / 4e3, abs=0.1)
    assert row["share_of_limit"] == pytest.approx(row["limit_us"] / 4.0, abs=1e-3)
    assert row["peers"] == {"torch, not quantised": 4.0}
    assert {"commit", "torch", "triton", "machine"} <= row.keys()


def test_card_without_a_data_sheet_has_no_share() -> None:
    launch = launch_of("silu_mul", DECODE)
    card = replace(CARD, sheet=None)
    (row,) = rows_of(launch, card, [1.0])
    assert "share_of_limit" not in row
    assert row["p50_us"] == 1.0


def test_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Problem:
        return Problem(lambda: torch.ones(2), lambda found: (found, 2 * found))

    monkeypatch.setitem(PROBLEMS, "rope", broken)  # type: ignore[arg-type]
    launch = launch_of("rope", DECODE)
    (row,) = rows_of(launch, CARD, [1.0])
    assert "wrong result: off by" in row["skipped"]
    assert "p50_us" not in row


def test_launch_that_no_runner_makes_is_not_timed() -> None:
    launch = launch_of("paged_decode_shared", DECODE)
    (row,) = rows_of(launch, CARD, [1.0])
    assert "so little is shared" in row["skipped"]


def test_peer_that_fails_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def peer() -> Callable[[], object]:
        raise NotImplementedError("no such head size")

    def problem(*_: object) -> Problem:
        return Problem(lambda: torch.ones(2), lambda found: (found, found), {"other": peer})

    monkeypatch.setitem(PROBLEMS, "rope", problem)  # type: ignore[arg-type]
    launch = launch_of("rope", DECODE)
    (row,) = rows_of(launch, CARD, [1.0])
    assert row["peers"] == {"other": "skipped: NotImplementedError: no such head size"}


def test_inputs_go_round_in_thrice_the_cache() -> None:
    card = Card("any", l2_bytes=50 << 20, num_sms=1, sheet=None)
    assert card.num_sets(100 << 20) == 2
    assert card.num_sets(1 << 30) == 1
    assert card.num_sets(1000) == 256


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("NVIDIA H100 80GB HBM3", H100),
        ("NVIDIA A100-SXM4-80GB", A100),
        ("Orin", ORIN),
        ("Tesla T4", None),
    ],
)
def test_data_sheet_is_found_by_name(name: str, sheet: object) -> None:
    assert sheet_of(name) is sheet


def run(*flags: str, interpreted: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, str(ROOT / "bench" / "bench_kernels.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=environment,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so_in_a_line() -> None:
    done = run("--device", "cuda")
    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        "picert: no CUDA device is visible: only --static and --device cpu work without one"
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device", "h100"), "--static goes with a100, h100 or orin"),
        (("--static", "--device", "cuda"), "--static goes with a100, h100 or orin"),
        (("--device", "cuda", "--kernel", "none"), "invalid choice"),
        (("--device", "cpu", "--kernel", "rope"), "operations of the CPU are chosen by --op"),
        (("--device", "cuda", "--op", "linear"), "--op goes with --device cpu"),
        (("--device", "cpu", "--model", "Llama-3-8B"), "model 'Llama-3-8B' is unknown"),
        (("--device", "cpu", "--op", "linear", "--isa", "none"), "instruction set is 'none'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(flags: tuple[str, ...], words: str) -> None:
    done = run(*flags)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_interpreted_kernels_are_not_timed() -> None:
    assert "unset TRITON_INTERPRET" in run("--device", "cuda", interpreted=True).stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_gpu_tests_fail_where_there_is_no_card() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"),
            str(ROOT / "tests" / "kernels" / "test_silu_mul.py"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=ROOT / "tests",
        env=environment,
    )
    assert done.returncode == 1
    assert "no CUDA device is visible: gpu tests need one" in done.stdout
