"""Expander: the segments of one sketch, from the moment each line is known to its text in the
answer.

An edge writes a segment; when the edge is lost another goes on where the shown text ends; when
edges fail, or what they wrote is not fit to be shown, the cloud writes it. Each segment is one task
of the draft.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from picert.cloud.assignment import Assignment, counted
from picert.cloud.check import CloudCheck
from picert.cloud.draft import Draft
from picert.cloud.edges import EdgePool
from picert.cloud.race import Race, relay
from picert.cloud.tally import Tally
from picert.cloud.writer import CloudWriter
from picert.config import PolicyConfig
from picert.engine.sequence import Output
from picert.errors import PicertError
from picert.messages import ExpandJob, Expansion, Segment, SegmentReport
from picert.pice.ensemble import NO_OPINIONS, Choice, Context, Judge
from picert.pice.merge import Merger
from picert.pice.policy import Plan, job_deadline_s
from picert.pice.prompts import PromptBook
from picert.pice.quality import QualityTable, score_of
from picert.pice.router import classify
from picert.pice.shaping import ExpansionShaper

CLOUD = "cloud"  # who wrote a segment that no edge did


@dataclass(frozen=True, slots=True)
class Means:
    """What expanding is done with; the same for every question."""

    edges: EdgePool
    writer: CloudWriter
    prompts: PromptBook
    policy: PolicyConfig
    quality: QualityTable
    judge: Judge
    check: CloudCheck
    tally: Tally


class Expander:
    """Expands one sketch into one draft: `add` segments as they are known, then `close_sketch`."""

    def __init__(self, draft: Draft, plan: Plan, question: str, means: Means) -> None:
        self._draft = draft
        self._plan = plan
        self._question = question
        self._means = means
        self._merger = Merger()
        self._segments: list[Segment] = []
        self._num_begun = 0
        self._num_repairs = 0
        self._texts: dict[int, str] = {}  # shaped text of each segment so far, shown or not
        self._fronts: dict[int, asyncio.Event] = {}  # of segments that wait to be at the front
        self._rules = means.prompts.expand_template.own_texts()
        self._slowest = means.edges.roster.slowest()  # deadlines are by it

    def add(self, segments: list[Segment]) -> None:
        """Show their headings, and begin to expand at once (eager dispatch), from when there are
        enough segments to make an answer of them. With that switched off expansions wait.
        """
        self._segments += segments
        for segment in segments:
            self._draft.note("sketch", text=segment.text, index=segment.index)
            self._draft.say(self._merger.add_segment(segment), segment.index)
        if self._is_enough and self._means.policy.uses("eager_dispatch"):
            self._begin_new()

    def announce(self, text: str) -> None:
        """The segment that is being written begins with `text`: it is heading as soon as that is
        what the answer goes on with."""
        self._draft.say(self._merger.begin_segment(text), len(self._segments))

    @property
    def has_announced(self) -> bool:
        """Something of the segment that is being written was shown, so it must be added."""
        return self._merger.has_begun_next

    @property
    def shown(self) -> str:
        """The answer so far."""
        return self._merger.answer

    def close_sketch(self) -> bool:
        """No more segments come.

        False if there were too few: then nothing was begun, and what was `shown` is to be gone on
        with.
        """
        self._draft.say(self._merger.close_sketch())
        if self._is_enough:
            self._begin_new()
        self._draft.promised_jobs = 0
        return self._is_enough

    @property
    def _is_enough(self) -> bool:
        return len(self._segments) >= self._means.policy.min_segments

    def _begin_new(self) -> None:
        new, self._num_begun = self._segments[self._num_begun :], len(self._segments)
        left = self._draft.promised_jobs - len(new) * self._plan.width
        self._draft.promised_jobs = max(0, left)
        for segment in new:
            self._draft.spawn(self._expand(segment))

    async def _expand(self, segment: Segment) -> None:
        """One segment's text: by an edge if one delivers it, else by the cloud."""
        if self._plan.writer == "cloud":
            await self._by_cloud(segment, 0)
            return
        if self._plan.width > 1:
            if not await self._by_race(segment):
                await self._by_cloud(segment, self._plan.width)
            return
        failed_at: list[str] = []
        for attempt in range(self._means.policy.max_attempts):
            try:
                if await self._by_edge(segment, attempt, failed_at):
                    return
                break  # not fit to be shown: the cloud's own words cost less than another try
            except PicertError as error:
                self._discard(segment)
                self._means.tally.fall_back("expand", error)
                self._explain(segment, f"attempt {attempt + 1} failed: {error.message}")
        await self._by_cloud(segment, attempt + 1)

    async def _by_edge(self, segment: Segment, attempt: int, failed_at: list[str]) -> bool:
        """True if an edge's text now stands in the answer.

        Raises what made the edge fail, its name in `failed_at`.
        """
        job = self._job(segment, attempt)
        running = self._means.edges.run(job, avoid=failed_at)
        async with counted(running, self._draft.count_edge) as assignment:
            try:
                expansion = await relay(
                    *(assignment, job, segment),
                    lambda text: self._show(segment, text, assignment.edge),
                )
            except PicertError:
                failed_at.append(assignment.edge or "")
                raise
            except asyncio.CancelledError:
                self._report_cut(segment, assignment, attempt + 1)
                raise
        edge = assignment.edge or ""
        whole = msgspec.structs.replace(expansion, text=self._texts.get(segment.index, ""))
        choice = self._choose(segment, [whole])
        self._account(choice, [whole])
        return self._accept(segment, whole, edge, choice, attempt + 1)

    async def _by_race(self, segment: Segment) -> bool:
        """True if the text of one of several candidates now stands in the answer."""
        front = self._front(segment.index)
        race = Race(self._means.edges, segment, front, self._draft.count_edge)
        jobs = [self._job(segment, n, n) for n in range(self._plan.width)]
        await race.run(
            jobs,
            lambda found: self._choose(segment, found).expansion is not None,
            self._means.check.patience_s,
        )
        for candidate, error in race.problems:
            self._means.tally.fall_back("expand", error)
            self._explain(segment, f"candidate {candidate + 1} failed: {error.message}")
        opinions = await self._opinions(segment, race.found)
        choice = self._choose_checked(segment, race.found, opinions)
        self._account(choice, race.found)
        if choice.best is None:
            return False
        edge = race.edge_of[choice.best.attempt]
        return self._accept(segment, choice.best, edge, choice, len(jobs))

    def _account(self, choice: Choice, found: Sequence[Expansion]) -> None:
        """What candidates teach about their models."""
        self._means.tally.confidence.add(choice.confidence)
        for expansion in found:
            self._means.judge.calibrations.observe(expansion.model, expansion.mean_logprob)
            if choice.expansion in (None, expansion):
                score = 0.0 if choice.expansion is None else score_of(choice.confidence)
                cell = (expansion.model, self._plan.level, classify(self._question))
                self._means.quality.observe(*cell, score)

    def _accept(
        self, segment: Segment, best: Expansion, edge: str, choice: Choice, tries: int
    ) -> bool:
        """False if the cloud shall write the segment; else `best` is its text."""
        if choice.expansion is None:
            self._explain(segment, f"{edge}: {', '.join(choice.reasons)}")
            if self._may_repair(segment, best.text):
                self._discard(segment)
                self._means.tally.fall_back("expand")
                self._num_repairs += 1
                return False
            self._explain(segment, "the best there is goes out")
        if not self._texts.get(segment.index):  # of a race: it was held back until now
            self._show(segment, best.text, edge)
        report = SegmentReport(
            text=segment.text,
            expansion=self._texts.get(segment.index, ""),
            edge=edge,
            model=best.model,
            tokens=best.completion_tokens,
            attempts=tries,
            candidates=self._plan.width,
            confidence=round(choice.confidence, 3),
        )
        self._finish(segment, report)
        return True

    def _may_repair(self, segment: Segment, text: str) -> bool:
        """Whether the cloud shall write what is not fit. Not what was shown; with repair switched
        off, or its budget spent, only what has no text at all, since a segment must not be lost.
        """
        if self._merger.written(segment.index):
            return False
        has_budget = self._num_repairs < self._plan.max_repairs
        return (self._means.policy.uses("repair") and has_budget) or not text

    async def _by_cloud(self, segment: Segment, num_attempts: int) -> None:
        """The cloud writes what is missing of a segment: a repair, unless the plan says so."""
        if self._plan.writer == "edges":
            self._draft.note("repair", index=segment.index, edge=CLOUD)
        job = self._job(segment, num_attempts)
        shaper = ExpansionShaper(segment.text, job.written)
        prompt = self._means.prompts.expand(job, segment)
        output: Output | None = None
        stream = self._means.writer.write(self._draft, f"repair-{segment.index}", prompt)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                self._show(segment, shaper.push(output.text), CLOUD)
                if shaper.is_over:
                    break
        was_cut = output is not None and output.finish_reason == "length"
        self._show(segment, shaper.finish(cut=was_cut), CLOUD)
        num_tokens = output.num_completion_tokens if output is not None else 0
        report = SegmentReport(
            text=segment.text,
            expansion=self._texts.get(segment.index, ""),
            edge=CLOUD,
            model=self._means.writer.model,
            tokens=num_tokens,
            attempts=num_attempts + 1,
        )
        self._finish(segment, report)

    def _job(self, segment: Segment, attempt: int, candidate: int = 0) -> ExpandJob:
        outline = tuple(known.text for known in self._segments)
        prompt_tokens = self._draft.prompt_tokens + self._plan.sketch_tokens
        budget, policy = self._plan.expansion_tokens, self._means.policy
        speed, batch = self._slowest, len(outline)
        return ExpandJob(
            request_id=self._draft.request.request_id,
            attempt=attempt,
            question=self._question,
            outline=outline,
            segments=(segment,),
            max_tokens=budget,
            deadline_s=job_deadline_s(speed, prompt_tokens, budget, batch, policy),
            written=self._merger.written(segment.index),
            seed=(self._draft.request.sampling.seed or 0) + candidate,
            candidate=candidate,
        )

    def _choose(
        self,
        segment: Segment,
        candidates: Sequence[Expansion],
        opinions: Mapping[int, float] = NO_OPINIONS,
    ) -> Choice:
        return self._means.judge.choose(candidates, segment, self._context(segment), opinions)

    def _context(self, segment: Segment) -> Context:
        others = tuple(text for index, text in self._texts.items() if index != segment.index)
        outline = tuple(known.text for known in self._segments)
        return Context(self._question, outline, others, self._rules)

    async def _opinions(
        self, segment: Segment, candidates: Sequence[Expansion]
    ) -> Mapping[int, float]:
        """The cloud's of those without a veto, if it is to be asked and there are several."""
        fit = self._means.judge.fit(candidates, segment, self._context(segment))
        if len(fit) < 2 or not self._means.check.is_on:
            return NO_OPINIONS
        prompt = self._means.prompts.expand(self._job(segment, 0), segment)
        found = await self._means.check.opinions(self._draft, segment.index, prompt, fit)
        if not found:
            self._means.tally.checks["late"] += 1
            self._explain(segment, "the cloud's check did not come in time")
        return found

    def _choose_checked(
        self, segment: Segment, candidates: Sequence[Expansion], opinions: Mapping[int, float]
    ) -> Choice:
        """The choice, and what the cloud's opinions changed of it."""
        choice = self._choose(segment, candidates)
        if not opinions:
            return choice
        checked = self._choose(segment, candidates, opinions)
        is_other = checked.best is not choice.best
        self._means.tally.checks["changed" if is_other else "agreed"] += 1
        told = [f"{c.model} {opinions[c.attempt]:.2f}" for c in candidates if c.attempt in opinions]
        what = "it decides" if is_other else "the choice stays"
        self._explain(segment, f"the cloud reads {', '.join(told)}: {what}")
        return checked

    def _front(self, index: int) -> asyncio.Event:
        """Set once everything before this segment is in the answer."""
        event = self._fronts.setdefault(index, asyncio.Event())
        if self._merger.front >= index:
            event.set()
        return event

    def _show(self, segment: Segment, text: str, edge: str | None) -> None:
        """Put shaped text into the answer; the merger decides how much of it can be seen."""
        if text:
            self._texts[segment.index] = self._texts.get(segment.index, "") + text
            self._draft.note("expand", index=segment.index, edge=edge, text=text)
            self._draft.say(self._merger.add_text(segment.index, text), segment.index)

    def _discard(self, segment: Segment) -> None:
        self._merger.discard(segment.index)
        self._texts[segment.index] = self._merger.written(segment.index)

    def _finish(self, segment: Segment, report: SegmentReport) -> None:
        self._draft.reports[segment.index] = report
        self._draft.say(self._merger.finish(segment.index), segment.index)
        for index in self._fronts:
            self._front(index)
        done, total = len(self._draft.reports), len(self._segments)
        self._draft.note(
            "segment_done", index=segment.index, edge=report.edge, done=done, total=total
        )

    def _report_cut(self, segment: Segment, assignment: Assignment, tries: int) -> None:
        """The answer has reached its max_tokens in this segment, so its edge is told to stop."""
        shown = self._merger.written(segment.index)
        if self._draft.is_full and shown:
            self._draft.reports[segment.index] = SegmentReport(
                text=segment.text,
                expansion=shown,
                edge=assignment.edge or "",
                model=assignment.model,
                tokens=assignment.told[segment.index],
                attempts=tries,
            )

    def _explain(self, segment: Segment, reason: str) -> None:
        self._draft.reasons.append(f"segment {segment.index + 1}: {reason}")
