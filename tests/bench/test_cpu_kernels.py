"""The CPU side of the kernel benchmark, on tiny sizes: operations are checked and have rows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cpu_operations import OPERATIONS, CpuModel, Matrix, Measured, Rig, _timed
from cpu_timing import CpuLimits, cpu_line, cpu_rows, row_of

TINY = CpuModel(
    *("tiny", 64, 96, 4, 2, 16, 2),
    (Matrix("gate", "Q4_1", 96, 64), Matrix("down", "Q6_K", 48, 256), Matrix("q", "BF16", 40, 64)),
    Matrix("output", "Q8_0", 100, 64),
)
RIG = Rig(2, "", "thread")
GB_PER_S, GMAC_PER_S = 10.0, 100.0


class FixedLimits(CpuLimits):
    """10 GB/s and 100 GMAC/s."""

    def gb_per_s(self, working_set: int) -> float:
        return GB_PER_S

    def gmac_per_s(self, arithmetic: str) -> float:
        return GMAC_PER_S


LIMITS = FixedLimits(2, "thread")


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_right_and_has_times(name: str) -> None:
    rows = [json.loads(json.dumps(row)) for row in cpu_rows([name], [TINY], RIG, LIMITS)]
    assert rows
    for row in rows:
        assert "skipped" not in row, row
        assert (row["bench"], row["kernel"], row["device"]) == ("kernels", name, "cpu")
        assert 0 < row["p20_us"] <= row["p50_us"] <= row["p80_us"]
        assert {"machine", "commit", "threads", "isa", "clock"} <= row.keys()
        assert name in cpu_line(row)
        assert name == "barrier" or row["limit_us"] > 0


DRAFT = Measured("of a test", 16, [2e-6, 4e-6, 3e-6], 1000, 600_000, "int8", 1000)


def test_the_limit_that_binds_is_the_slower_one() -> None:
    row = row_of(DRAFT, LIMITS)
    assert (row["p50_us"], row["bound_by"], row["limit_us"]) == (3.0, "int8", 6.0)
    assert row_of(replace(DRAFT, num_bytes=100_000), LIMITS)["bound_by"] == "memory"


def test_a_wrong_result_is_not_timed() -> None:
    def found(passes: int) -> tuple[object, list[float]]:
        assert passes == 1
        return None, [1e-6]

    wrong = _timed(replace(DRAFT, seconds=[]), found, lambda _: float("nan"))
    assert row_of(wrong, LIMITS) == {"skipped": "wrong result: off by nan tolerances"}
