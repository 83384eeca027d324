"""Expander: the segments of one sketch, from the moment each line is known to its text in the
answer.

An edge writes a segment; when the edge is lost another goes on where the shown text ends; when
edges fail, or what they wrote is not fit to be shown, the cloud writes it. Each segment is one task
of the draft.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from picert.cloud.assignment import Assignment
from picert.cloud.draft import Draft
from picert.cloud.edges import EdgePool
from picert.cloud.tally import Tally
from picert.cloud.writer import CloudWriter
from picert.config import PolicyConfig
from picert.engine.sequence import Output
from picert.errors import PicertError
from picert.messages import ExpandJob, Expansion, Segment, SegmentReport
from picert.pice.ensemble import Choice, Context, choose
from picert.pice.merge import Merger
from picert.pice.policy import Plan, job_deadline_s
from picert.pice.prompts import PromptBook
from picert.pice.quality import QualityTable
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
        self._texts: dict[int, str] = {}  # shaped text of each segment so far, shown or not

    def add(self, segments: list[Segment]) -> None:
        """Begin to expand at once (eager dispatch), from when there are enough segments to make an
        answer of them. With that switched off, headings are shown and expansions wait.
        """
        self._segments += segments
        if len(self._segments) < self._means.policy.min_segments:
            return
        new = self._segments[self._num_begun :]
        self._num_begun = len(self._segments)
        for segment in new:
            self._draft.note("sketch", text=segment.text, index=segment.index)
            self._draft.say(self._merger.add_segment(segment), segment.index)
        if self._means.policy.uses("eager_dispatch"):
            self._begin(new)

    def close_sketch(self) -> bool:
        """No more segments come.

        False if there were too few: then nothing was begun and nothing shown.
        """
        if not self._num_begun:
            return False
        if not self._means.policy.uses("eager_dispatch"):
            self._begin(self._segments)
        self._draft.say(self._merger.close_sketch())
        return True

    def _begin(self, segments: list[Segment]) -> None:
        for segment in segments:
            self._draft.spawn(self._expand(segment))

    async def _expand(self, segment: Segment) -> None:
        """One segment's text: by an edge if one delivers it, else by the cloud."""
        if self._plan.writer == "cloud":
            await self._by_cloud(segment, 0)
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
        async with self._means.edges.run(job, avoid=failed_at) as assignment:
            try:
                expansion = await self._relay(assignment, job, segment)
            except PicertError:
                failed_at.append(assignment.edge or "")
                raise
        edge = assignment.edge or ""
        self._draft.count_edge(expansion)
        choice = self._choose(segment, expansion)
        is_fit = choice.expansion is not None
        self._means.tally.confidence.add(choice.confidence)
        self._means.quality.observe(
            *(expansion.model, self._plan.level, classify(self._question), float(is_fit))
        )
        if not is_fit:
            self._explain(segment, f"{edge}: {', '.join(choice.reasons)}")
            if self._may_repair(segment):
                self._discard(segment)
                self._means.tally.fall_back("expand")
                return False
        self._finish(segment, edge, expansion.model, expansion.completion_tokens, attempt + 1)
        return True

    async def _relay(self, assignment: Assignment, job: ExpandJob, segment: Segment) -> Expansion:
        """Show an edge's text as it arrives, shaped; returns its Expansion.

        A text that the shaper ends (it goes round in circles) is stopped. Its edge then reports no
        cost, so the Expansion is made up from the pieces that came.
        """
        shaper = ExpansionShaper(segment.text, job.written)
        num_pieces = 0
        async for piece in assignment:
            if isinstance(piece, Expansion):
                self._show(
                    segment, shaper.finish(cut=piece.finish_reason == "length"), assignment.edge
                )
                return piece
            num_pieces += 1
            self._show(segment, shaper.push(piece.text), assignment.edge)
            if shaper.is_over:
                break
        return Expansion(
            request_id=job.request_id,
            index=segment.index,
            attempt=job.attempt,
            text=shaper.text,
            finish_reason="cancelled",
            model=self._means.edges.model_of(assignment),
            prompt_tokens=0,
            cached_tokens=0,
            completion_tokens=num_pieces,
            mean_logprob=0.0,
            seconds=0.0,
        )

    def _may_repair(self, segment: Segment) -> bool:
        """Whether the cloud shall write what is not fit. Not what was shown; and with repair
        switched off only what has no text at all, since a segment must not be lost."""
        if self._merger.written(segment.index):
            return False
        return self._means.policy.uses("repair") or not self._texts.get(segment.index)

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
        self._finish(segment, CLOUD, self._means.writer.model, num_tokens, num_attempts + 1)

    def _job(self, segment: Segment, attempt: int) -> ExpandJob:
        outline = tuple(known.text for known in self._segments)
        prompt_tokens = self._draft.prompt_tokens + self._plan.sketch_tokens
        budget, policy = self._plan.expansion_tokens, self._means.policy
        speed, batch = self._means.edges.slowest(), len(outline)
        return ExpandJob(
            request_id=self._draft.request.request_id,
            attempt=attempt,
            question=self._question,
            outline=outline,
            segments=(segment,),
            max_tokens=budget,
            deadline_s=job_deadline_s(speed, prompt_tokens, budget, batch, policy),
            written=self._merger.written(segment.index),
            seed=self._draft.request.sampling.seed or 0,
        )

    def _choose(self, segment: Segment, expansion: Expansion) -> Choice:
        own = self._texts.get(segment.index, "")
        others = tuple(text for index, text in self._texts.items() if index != segment.index)
        outline = tuple(known.text for known in self._segments)
        candidate = msgspec.structs.replace(expansion, text=own)
        return choose([candidate], segment, Context(self._question, outline, others))

    def _show(self, segment: Segment, text: str, edge: str | None) -> None:
        """Put shaped text into the answer; the merger decides how much of it can be seen."""
        if text:
            self._texts[segment.index] = self._texts.get(segment.index, "") + text
            self._draft.note("expand", index=segment.index, edge=edge, text=text)
            self._draft.say(self._merger.add_text(segment.index, text), segment.index)

    def _discard(self, segment: Segment) -> None:
        self._merger.discard(segment.index)
        self._texts[segment.index] = self._merger.written(segment.index)

    def _finish(self, segment: Segment, edge: str, model: str, tokens: int, tries: int) -> None:
        text = self._texts.get(segment.index, "")
        self._draft.reports[segment.index] = SegmentReport(
            text=segment.text,
            expansion=text,
            edge=edge,
            model=model,
            tokens=tokens,
            attempts=tries,
        )
        self._draft.say(self._merger.finish(segment.index), segment.index)
        done, total = len(self._draft.reports), len(self._segments)
        self._draft.note("segment_done", index=segment.index, edge=edge, done=done, total=total)

    def _explain(self, segment: Segment, reason: str) -> None:
        self._draft.reasons.append(f"segment {segment.index + 1}: {reason}")
