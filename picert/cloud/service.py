"""CloudService: one question in, one streamed answer out. `answer` is the paper's idea, top to
bottom.

The service composes: the cloud's engine writes, `picert.pice` decides, the pool reaches the edges,
a `Draft` holds what belongs to one question. The only table here is the set of drafts in flight,
kept by `_admit`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from picert.cloud.admission import Admission
from picert.cloud.assignment import counted
from picert.cloud.check import CloudCheck
from picert.cloud.draft import Draft
from picert.cloud.edges import EdgePool
from picert.cloud.expander import Expander, Means
from picert.cloud.race import stopped
from picert.cloud.tally import Tally
from picert.cloud.writer import CloudWriter
from picert.config import CloudConfig, Mode
from picert.engine.streaming import StreamingLoop
from picert.errors import InvalidRequest, PicertError
from picert.log import get_logger
from picert.messages import AnswerEvent, AnswerJob, Expansion, Request
from picert.pice.ensemble import Judge, Weights
from picert.pice.features import read_request
from picert.pice.heads import Heads
from picert.pice.length import LengthPredictor
from picert.pice.policy import Load, Plan, edge_backlog_s, job_deadline_s, plan
from picert.pice.price import BacklogPrice
from picert.pice.profile_file import ModelProfile
from picert.pice.prompts import PromptBook
from picert.pice.quality import QualityTable
from picert.pice.sketch import SketchParser

logger = get_logger(__name__)

_SKETCHING: frozenset[Mode] = frozenset({"pice", "sot", "static"})


class CloudService:
    """Answers requests with one cloud engine and a pool of edges.

    Everything runs on one event loop.
    """

    def __init__(
        self,
        loop: StreamingLoop,
        edges: EdgePool,
        prompts: PromptBook,
        config: CloudConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = CloudWriter(loop, clock, config.queue_timeout_s)
        self._edges = edges
        self._prompts = prompts
        self._config = config
        self._clock = clock
        self.tally = Tally()
        self.on_end: Callable[[Draft], None] = lambda draft: None  # for traces
        self._quality = QualityTable()
        judge = Judge(Weights.of(config.policy), config.policy.confidence_floor, edges.calibrations)
        self._means = Means(
            edges=edges,
            writer=self._writer,
            prompts=prompts,
            policy=config.policy,
            quality=self._quality,
            judge=judge,
            check=CloudCheck(self._writer, config.policy),
            tally=self.tally,
        )
        self._heads: Heads | None = None
        self._lengths = LengthPredictor()
        self._price, self._edge_price = (
            BacklogPrice(config.policy.backlog_target_s, config.policy.price_rate) for _ in range(2)
        )
        self.admission = Admission(config.max_num_requests, self.tally.refused)
        self._drafts: dict[str, Draft] = {}

    def begin_with(self, profile: ModelProfile) -> None:
        """Predict from what was measured of the cloud's model; to be called before any answer."""
        self._writer.speed = profile.speed()
        self._heads = profile.heads
        if profile.heads is not None:
            self._lengths = LengthPredictor(profile.heads.tokens)

    async def read_ahead(self) -> None:
        """Read what all sketches of a length begin with, once, so that the first question finds
        it in the prefix cache."""
        policy = self._config.policy
        if policy.mode not in _SKETCHING:
            return
        try:
            for max_points in range(2, policy.max_segments + 1):
                await self._writer.read(self._prompts.sketch("?", max_points, 1))
        except PicertError as error:
            logger.warning("nothing of a sketch's prompt is read ahead: %s", error.message)

    async def answer(self, request: Request) -> AsyncGenerator[AnswerEvent, None]:
        """The path of a request: text in order, then one Done; or a PicertError. Closing the
        iterator cancels it all.

        Raises QueueFull or Draining before anything was begun, InvalidRequest for one that cannot
        be served, DeadlineExceeded when its time is over.
        """
        async with self._admit(request) as draft:  # 1 arrives
            chosen = self._plan(draft)  # 2 plan
            if chosen.route == "sketch":
                draft.spawn(self._progressive(draft, chosen))  # 3 to 8 sketch … choose
            elif chosen.route == "edge_only":
                draft.spawn(self._at_edge(draft))
            else:
                draft.spawn(self._direct(draft))
            async for event in draft.events():  # 9 merge
                yield event
            done = draft.done()
            draft.outcome = done.finish_reason
            self.tally.answer(request, done, draft.expected_tokens, chosen.reasons[-1])
            yield done  # 10 answer

    async def _progressive(self, draft: Draft, chosen: Plan) -> None:
        """The cloud sketches; each line goes out to an edge the moment it is complete, and its
        heading is shown while it is written. Where that turns out to be no sketch the answer goes
        on from what was shown."""
        question = draft.request.messages[-1].content
        parser = SketchParser(chosen.max_segments, question)
        expander = Expander(draft, chosen, question, self._means)
        prompt = self._prompts.sketch(question, chosen.max_segments, chosen.sketch_tokens)
        parser.push(prompt.prefill)
        was_cut = False
        async with aclosing(self._writer.write(draft, "sketch", prompt)) as outputs:  # 3 sketch
            async for output in outputs:
                if not draft.sketch_tokens:
                    self.tally.sketch_first_token.add(draft.elapsed_s)
                    self._load()  # prices are to see the load between plans, too
                expander.add(
                    parser.push(output.text)
                )  # 4 segments, 5 jobs, 6 out, 7 edge, 8 choose
                expander.announce(parser.begun)
                was_cut = output.finish_reason == "length"
                draft.sketch_tokens = output.num_completion_tokens
                if parser.is_complete:
                    break
        expander.add(parser.finish(cut=was_cut and not expander.has_announced))
        draft.sketch_s = draft.elapsed_s
        self.tally.sketch_tokens.add(draft.sketch_tokens)
        if not expander.close_sketch():
            self.tally.fall_back("sketch")
            await self._fall_back(draft, "the sketch had too few points", expander.shown)

    async def _direct(self, draft: Draft, written: str = "") -> None:
        """The cloud answers whole; `written` is answer text that was shown before."""
        request = draft.request
        prompt = self._prompts.direct(request, written)
        ids = None if written else draft.prompt_ids  # as the plan has counted them
        async with aclosing(self._writer.write(draft, "answer", prompt, ids)) as outputs:
            async for output in outputs:
                if written:
                    draft.say(output.text)
                else:
                    draft.pass_on(output)
        if output.finish_reason == "error":
            raise PicertError("the answer ended early: no token could be drawn")
        if output.finish_reason == "length":
            draft.finish_reason = "length"
        elif request.messages and not written:
            question = request.messages[-1].content
            self._lengths.observe(question, output.num_completion_tokens)

    async def _at_edge(self, draft: Draft) -> None:
        """A small model answers whole; the cloud goes on where it failed."""
        written, num_tokens = "", 0
        policy = self._config.policy
        failed_at: list[str] = []
        for attempt in range(policy.max_attempts):
            job = self._answer_job(draft, attempt, written)
            try:
                running = self._edges.run(job, avoid=failed_at)
                async with counted(running, draft.count_edge) as assignment:
                    async for piece in assignment:
                        if isinstance(piece, Expansion):
                            draft.finish_whole(piece, assignment.edge or "", attempt + 1)
                            return
                        written += piece.text
                        num_tokens += piece.num_tokens
                        draft.say(piece.text)
                        if draft.is_full:
                            cut = stopped(job, 0, assignment.model, written, num_tokens)
                            draft.finish_whole(cut, assignment.edge or "", attempt + 1)
                            return
            except PicertError as error:
                failed_at.append(assignment.edge or "")
                draft.reasons.append(f"attempt {attempt + 1} failed: {error.message}")
                self.tally.fall_back("edge_only", error)
        await self._fall_back(draft, "no edge could answer", written)

    async def _fall_back(self, draft: Draft, reason: str, written: str = "") -> None:
        draft.route = "fallback"
        draft.reasons.append(reason)
        await self._direct(draft, written)

    def _plan(self, draft: Draft) -> Plan:
        """Choose the route, from the wording, the predicted length and the load."""
        request = draft.request
        draft.prompt_ids = self._writer.encode(self._prompts.direct(request))
        features = read_request(request, draft.prompt_tokens, self._lengths, self._heads)
        policy, writer = self._config.policy, self._writer
        chosen = plan(features, self._load(), writer.speed, policy, self._quality)
        draft.route = chosen.route
        draft.promised_jobs = chosen.num_jobs
        draft.expected_tokens = features.length.p50
        draft.reasons += chosen.reasons
        draft.candidates = tuple(map(str, chosen.candidates))
        draft.note("plan", text=chosen.route)
        return chosen

    def _load(self) -> Load:
        """What goes on now, and what a second of the cloud and of the edges costs."""
        writer, now = self._writer, self._clock()
        load = self._edges.load(writer.num_running)
        promised = sum(draft.promised_jobs for draft in self._drafts.values())
        load = replace(load, num_edge_jobs=load.num_edge_jobs + promised)
        return replace(
            load,
            cloud_slots=writer.slots,
            cloud_wait_s=writer.wait_s,
            price=self._price.update(writer.backlog_s, now),
            edge_price=self._edge_price.update(edge_backlog_s(load), now),
        )

    def _answer_job(self, draft: Draft, attempt: int, written: str) -> AnswerJob:
        request, policy = draft.request, self._config.policy
        tokens = (draft.prompt_tokens, request.sampling.max_tokens)
        return AnswerJob(
            request_id=request.request_id,
            attempt=attempt,
            messages=request.messages,
            sampling=request.sampling,
            deadline_s=job_deadline_s(self._edges.roster.slowest(), *tokens, 1, policy),
            written=written,
        )

    @asynccontextmanager
    async def _admit(self, request: Request) -> AsyncIterator[Draft]:
        """The draft of an accepted request; leaving the block ends its tasks and forgets it."""
        if request.request_id in self._drafts:
            raise InvalidRequest(
                f"request_id {request.request_id!r} is in flight already: choose another",
                param="request_id",
            )
        with self.admission.place():
            draft = Draft(request, self._writer.tokenizer, self._clock)
            self._drafts[request.request_id] = draft
            try:
                yield draft
            except PicertError as error:
                draft.outcome = error.code or error.kind
                raise
            finally:
                await draft.close()
                del self._drafts[request.request_id]
                self.tally.end(draft.outcome, draft.elapsed_s)
                self.on_end(draft)
                logger.info("%s", draft, extra={"request_id": request.request_id})

    @property
    def num_in_flight(self) -> int:
        """Accepted requests without a terminal event so far."""
        return len(self._drafts)
