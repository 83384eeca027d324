"""One case, in rounds: every engine takes its turn, then the machine's limits are measured.

Odd rounds go through the engines backwards, so that a slow drift falls on all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from cases import MAX_GROWTH, MAX_STEPS, Case, baseline_of
from engines.process import EngineFailed
from limits import Cost, MachineRates
from team import Lane, Member, Team

TURN_SECONDS = 0.5  # of decoding in one turn, unless two steps take longer
PAUSE_S = 0.02  # between turns: pools of the engine before stop spinning
MIN_ROUNDS = 2


@dataclass(slots=True)
class Record:
    """What one lane did so far."""

    lane: Lane
    member: Member
    seconds: list[list[float]] = field(default_factory=list)  # [round][step]
    native_s: list[float] = field(default_factory=list)  # [round]
    opened: dict[str, float] = field(default_factory=dict)  # counters of opening the sequences

    @property
    def tokens_per_step(self) -> int:
        """That a rate counts."""
        case = self.lane.case
        return case.context_len if case.kind == "prefill" else case.num_seqs

    def rates(self) -> list[float]:
        """Tokens per second of every step."""
        return [self.tokens_per_step / s for turn in self.seconds for s in turn]

    def turn_rates(self) -> list[float]:
        """The median rate of each turn."""
        return [self.tokens_per_step / median(turn) for turn in self.seconds]

    def open(self, prompts: list[list[int]]) -> None:
        """Make the lane ready for its turns."""
        if self.lane.case.kind == "decode":
            self.opened = self.member.process.call("open", prompts=prompts)

    def take_turn(self, prompt: list[int]) -> None:
        """Decode for a moment, or compute `prompt`."""
        time.sleep(PAUSE_S)
        call = self.member.process.call
        if self.lane.case.kind == "prefill":
            self.seconds.append(call("prefill", prompt=prompt)["seconds"])
            return
        done = call("decode", max_steps=MAX_STEPS, max_seconds=TURN_SECONDS, max_growth=MAX_GROWTH)
        self.seconds.append(done["seconds"])
        if "native_s" in done:
            self.native_s.append(done["native_s"])

    def close(self) -> None:
        """Forget the sequences, so that the next case finds none."""
        if self.lane.case.kind == "decode":
            self.member.process.call("clear")


def measure(team: Team, case: Case) -> Iterator[dict[str, Any]]:
    """Rows of a case: picert's, its baselines', the peers'; skipped ones as soon as known.

    Raises EngineFailed if picert itself fails.
    """
    rng = np.random.default_rng(case.num_seqs + case.context_len)
    records: list[Record] = []
    for lane in lanes_of(team, case):
        try:
            record = Record(lane, team.member(lane))
            vocab_size = records[0].member.about["vocab_size"] if records else None
            vocab_size = vocab_size or record.member.about["vocab_size"]
            record.open(lane.case.prompts(rng, vocab_size))
            records.append(record)
        except EngineFailed as failure:
            if lane.engine == "picert":
                raise
            yield skipped(lane, str(failure))
    rates, failed = take_rounds(team, records, rng)
    for record in records:
        if record.lane not in failed:
            record.close()
            yield row_of(record, records, rates)
    yield from (skipped(lane, reason) for lane, reason in failed.items())


def lanes_of(team: Team, case: Case) -> list[Lane]:
    """picert first, then what its figure is read beside."""
    plan = team.plan
    lanes = [Lane("picert", plan.threads, "subject", case)]
    if plan.baseline_threads is not None:
        lanes.append(Lane("picert", plan.baseline_threads, "baseline", case))
    elif (baseline := baseline_of(case)) is not None:
        lanes.append(Lane("picert", plan.threads, "baseline", baseline))
    return lanes + [Lane(peer, plan.threads, "subject", case) for peer in plan.peers]


def take_rounds(
    team: Team, records: list[Record], rng: np.random.Generator
) -> tuple[MachineRates, dict[Lane, str]]:
    """Turns of all lanes until rounds or time are over; why those that failed did."""
    rates = MachineRates("int8" if team.plan.device == "cpu" else "tensor")
    failed: dict[Lane, str] = {}
    about = records[0].member.about
    cost = Cost.of(records[0].lane.case, about["work"], about["work"]["packed_bytes"])
    deadline = time.monotonic() + team.plan.case_seconds
    for number in range(team.plan.rounds):
        if number >= MIN_ROUNDS and time.monotonic() > deadline:
            break
        prompt = records[0].lane.case.prompts(rng, about["vocab_size"])[0]
        for record in records[:: 1 if number % 2 == 0 else -1]:
            if record.lane in failed:
                continue
            try:
                record.take_turn(prompt)
            except EngineFailed as failure:
                if record.lane.engine == "picert":
                    raise
                failed[record.lane] = str(failure)
        machine = team.machine()
        rates.gb_per_s.append(machine.call("bandwidth", num_bytes=cost.num_bytes))
        rates.gmac_per_s.append(machine.call("peak"))
    return rates, failed


def skipped(lane: Lane, reason: str) -> dict[str, Any]:
    """The row of an engine without a figure."""
    return {
        "engine": lane.engine,
        "case": lane.case.name,
        "threads": lane.threads,
        "skipped": reason,
    }


def row_of(record: Record, records: list[Record], rates: MachineRates) -> dict[str, Any]:
    """The row of an engine with figures."""
    lane, about = record.lane, dict(record.member.about)
    work = records[0].member.about["work"]
    p20, p50, p80 = (round(float(q), 2) for q in np.percentile(record.rates(), [20, 50, 80]))
    weight_bytes = work["packed_bytes" if lane.engine == "picert" else "file_bytes"]
    cost = Cost.of(lane.case, work, weight_bytes)
    for name in ("work", "vocab_size"):
        about.pop(name, None)
    return {
        **{"engine": lane.engine, "case": lane.case.name, "threads": lane.threads},
        **{"tok_per_s": p50, "p20": p20, "p80": p80},
        **{"best": round(max(record.rates()), 2), "rounds": len(record.seconds)},
        **rates.row(cost, p50),
        **_python_share(record),
        **_opened(record),
        **_ratios(record, records),
        **about,
    }


def _python_share(record: Record) -> dict[str, float]:
    """The part of a decoding step that is outside of decoder and sampler."""
    if not record.native_s:
        return {}
    total_s = sum(sum(turn) for turn in record.seconds)
    return {"python_share": round(1 - sum(record.native_s) / total_s, 4)}


def _opened(record: Record) -> dict[str, int]:
    """Prompt tokens that opening the sequences computed rather than found in the cache."""
    if "computed_prompt_tokens" not in record.opened:
        return {}
    return {"computed_prompt_tokens": int(record.opened["computed_prompt_tokens"])}


def _ratios(record: Record, records: list[Record]) -> dict[str, Any]:
    """Medians of the rounds' ratios: a peer's rate over picert's, picert's over its baseline's."""
    subject = records[0]
    if record is subject:
        baselines = [r for r in records if r.lane.role == "baseline"]
        return {
            key: value
            for r in baselines
            for key, value in (
                ("baseline", f"{r.lane.case.name} x{r.lane.threads}"),
                ("ratio_to_baseline", _ratio(record, r)),
            )
        }
    return {} if record.lane.role == "baseline" else {"ratio_to_picert": _ratio(record, subject)}


def _ratio(record: Record, other: Record) -> float:
    pairs = zip(record.turn_rates(), other.turn_rates(), strict=True)
    return round(median(ours / theirs for ours, theirs in pairs), 4)
