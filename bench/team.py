"""The processes of one run: each engine loaded once, when first asked for, and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cases import Case
from engines.process import EngineFailed, EngineProcess
from engines.protocol import Settings

MODULES = {
    "picert": "picert_engine",
    "llama.cpp": "llama_cpp_engine",
    "openvino": "openvino_engine",
    "transformers": "transformers_engine",
    "machine": "machine_limits",
    "card": "card_limits",
}
PROSE = Path(__file__).parent / "data" / "prose.txt"
CHECK_PROMPTS, CHECK_PROMPT_LEN, CHECK_TOKENS = 4, 32, 8
CHECK_AGREEMENT = 0.5  # of a peer's first tokens with picert's: rounding may turn a close race


@dataclass(frozen=True, slots=True)
class Plan:
    """What all engines of a run share."""

    model: str  # path
    threads: int
    peers: tuple[str, ...]
    baseline_threads: int | None
    rounds: int
    case_seconds: float
    cases: tuple[Case, ...]
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Lane:
    """One engine on one case. A baseline is a second picert with a process of its own."""

    engine: str
    threads: int
    role: Literal["subject", "baseline"]
    case: Case


@dataclass(frozen=True, slots=True)
class Member:
    """A loaded engine and what it said of itself."""

    process: EngineProcess
    about: dict[str, Any]


class Team:
    """Owner of the processes; all end with it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._members: dict[tuple[str, int, str], Member | EngineFailed] = {}
        self._reference: list[list[int]] = []  # picert's answers to the check's prompts
        self._check_prompts: list[list[int]] = []

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members.values():
            if isinstance(member, Member):
                member.process.stop()

    def member(self, lane: Lane) -> Member:
        """The lane's engine, loaded and checked. Raises EngineFailed, at each call the same."""
        key = (lane.engine, lane.threads, lane.role)
        if key not in self._members:
            try:
                self._members[key] = self._load(lane)
            except EngineFailed as failure:
                self._members[key] = failure
        found = self._members[key]
        if isinstance(found, EngineFailed):
            raise found
        return found

    def machine(self) -> EngineProcess:
        """The one that measures the limits of the machine, or of its card."""
        engine = "machine" if self.plan.device == "cpu" else "card"
        key = (engine, self.plan.threads, "")
        if key not in self._members:
            self._members[key] = Member(self._start(engine, self.plan.threads), {})
        member = self._members[key]
        assert isinstance(member, Member)
        return member.process

    def _load(self, lane: Lane) -> Member:
        process = self._start(lane.engine, lane.threads)
        try:
            about = self._check_picert(process) if lane.engine == "picert" else self._check(process)
            return Member(process, {"load_s": round(process.load_s, 2), **about})
        except BaseException:
            process.stop()
            raise

    def _start(self, engine: str, threads: int) -> EngineProcess:
        cases = self.plan.cases
        settings = Settings(
            model=self.plan.model,
            threads=threads,
            max_num_seqs=max(CHECK_PROMPTS, *(case.num_seqs for case in cases)),
            max_len=max(512, *(case.max_len for case in cases)),
            device=self.plan.device,
        )
        usable = sorted(os.sched_getaffinity(0))
        return EngineProcess(MODULES[engine], settings, set(usable[-threads:]))

    def _check_picert(self, process: EngineProcess) -> dict[str, Any]:
        """A batch must say what its sequences say alone: on a CPU to the token, on a GPU mostly,
        since products of other sizes round otherwise there.
        """
        tokens = process.call("encode", text=PROSE.read_text(encoding="utf-8"))
        self._check_prompts = prompts = [
            tokens[start * CHECK_PROMPT_LEN :][:CHECK_PROMPT_LEN] for start in range(CHECK_PROMPTS)
        ]
        together = process.call("generate", prompts=prompts, num_tokens=CHECK_TOKENS)
        alone = [
            process.call("generate", prompts=[prompt], num_tokens=CHECK_TOKENS)[0]
            for prompt in prompts
        ]
        least = 1.0 if self.plan.device == "cpu" else CHECK_AGREEMENT
        same = sum(ours == theirs for ours, theirs in zip(together, alone, strict=True))
        if same < least * len(alone):
            raise EngineFailed("wrong result: sequences in a batch differ from the same ones alone")
        if self._reference and together != self._reference:
            raise EngineFailed("wrong result: two processes of picert differ")
        self._reference = together
        return dict(process.call("describe"))

    def _check(self, process: EngineProcess) -> dict[str, Any]:
        """A peer must begin its answers mostly as picert does."""
        got = process.call("generate", prompts=self._check_prompts, num_tokens=CHECK_TOKENS)
        pairs = list(zip(self._reference, got, strict=True))
        agreement = sum(ours[0] == theirs[0] for ours, theirs in pairs) / len(pairs)
        if agreement < CHECK_AGREEMENT:
            raise EngineFailed(
                f"wrong result: {agreement:.0%} of its first tokens are those of picert"
            )
        same = sum(a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
        about = process.call("describe")
        return {**about, "greedy_agreement": round(same / (len(pairs) * CHECK_TOKENS), 3)}
