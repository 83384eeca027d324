"""Engine: requests in, tokens out, one step at a time: schedule, run, postprocess.

It owns the scheduler, the runner and all sequences, and belongs to one thread (`EngineLoop` gives
it its own). It knows no chat, no sketch and no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import numpy as np

from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.checks import check_prompt, check_token_ids
from picert.engine.flights import Flights
from picert.engine.kv_cache import plan_kv
from picert.engine.runner import Runner, load_runner
from picert.engine.sampler import SamplingState, TokenMask, sampling_state
from picert.engine.scheduler import ReadLimits, Scheduler, limits_of
from picert.engine.scoring import MAX_CHUNK, Scoring, Span, check_spans
from picert.engine.sequence import NO_TERMS, Output, Sequence, Terms, Times
from picert.engine.stats import EngineStats
from picert.engine.waiting import Waiting
from picert.errors import InvalidRequest, Unavailable
from picert.log import get_logger
from picert.messages import SamplingParams, TokenLogprob
from picert.models.tokenizer import Tokenizer, load_tokenizer
from picert.models.weights import load_checkpoint

logger = get_logger(__name__)
_READ_ONLY = SamplingParams(temperature=0.0, max_tokens=1)


class Engine:
    """One model, its K/V cache and the requests that share them."""

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        tokenizer: Tokenizer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over `runner` and allocate its K/V cache. Raises ConfigError if it does not fit."""
        self.config = config
        self.identity = runner.identity
        self.tokenizer = tokenizer
        self.stats = EngineStats()
        self.kv_plan = plan_kv(
            config,
            max_position=runner.config.max_position,
            bytes_per_token=runner.kv_bytes_per_token,
            available_bytes=runner.available_bytes(),
            is_device=runner.has_own_memory,
        )
        runner.allocate_kv(self.kv_plan.num_blocks, self.kv_plan.block_size)
        self._runner = runner
        # Models pad their vocabulary: what the tokenizer does not know is never drawn.
        self.vocab_size = min(runner.config.vocab_size, tokenizer.vocab_size)
        self._own_end_ids = (*tokenizer.eos_token_ids, *runner.config.eos_token_ids)
        self._clock = clock
        self._scheduler = Scheduler(limits_of(config, self.kv_plan))
        self._scoring = Scoring(self.vocab_size)
        self._flights = Flights(
            *(runner, self.vocab_size, self._scoring, self.stats, clock),
            has_overlap=config.async_scheduling,
        )
        self._seeds = np.random.default_rng(config.seed)
        self._sequences: dict[str, Sequence] = {}  # live, by request id
        self._by_seq_id: dict[int, Sequence] = {}
        self._sampling: dict[int, SamplingState] = {}
        self._next_seq_id = 0
        self._waiting = Waiting(
            config.max_num_seqs + config.max_num_queued_reqs, config.max_num_queued_tokens
        )
        self._is_sound = True  # False within a step, so for good once one has raised
        self._step_started_at = 0.0

    # --- requests ---------------------------------------------------------------------------------

    def add(  # noqa: PLR0913 - the last three may be left out
        self,
        request_id: str,
        prompt: str | SequenceOf[int],
        params: SamplingParams,
        mask: TokenMask | None = None,
        terms: Terms = NO_TERMS,
        read: ReadLimits | None = None,
    ) -> None:
        """Queue a request; text is encoded as a raw completion prompt, ids are taken as given.

        Generation ends at the context's length even if `max_tokens` is more. Raises InvalidRequest
        (empty prompt, unknown token, id in use), ContextLengthExceeded, QueueFull, or Unavailable
        after a failed step.
        """
        self._check_sound()
        if request_id in self._sequences:
            raise InvalidRequest(f"request id {request_id!r} is in use: choose another")
        prompt_ids = self.tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else [*prompt]
        if not terms.is_owed:
            self._waiting.check(self.num_requests, len(prompt_ids))
        check_prompt(prompt_ids, self.vocab_size, self.max_model_len)
        check_token_ids("logit_bias", params.logit_bias, self.vocab_size)
        check_token_ids("stop_token_ids", params.stop_token_ids, self.vocab_size)
        seq = self._new_sequence(request_id, prompt_ids, params)
        seed = int(self._seeds.integers(2**63)) if params.seed is None else params.seed
        # The last token is sampled but never computed, so it takes no place in the cache.
        max_len = len(prompt_ids) + seq.max_new_tokens - 1
        self._scheduler.add(seq.seq_id, prompt_ids, max_len, priority=terms.priority, read=read)
        self._waiting.num_tokens += len(prompt_ids)
        self._sequences[request_id] = self._by_seq_id[seq.seq_id] = seq
        self._sampling[seq.seq_id] = sampling_state(params, prompt_ids, seq.end_ids, seed, mask)
        self._refresh_gauges()

    def score(
        self,
        request_id: str,
        prompt_ids: SequenceOf[int],
        spans: SequenceOf[Span],
        terms: Terms = NO_TERMS,
    ) -> None:
        """Queue a prompt to be read and not answered: its one Output has the mean log-probability
        of the tokens of each span. What comes before them may be found in the prefix cache.

        Raises InvalidRequest for a span that is not one, and as `add`.
        """
        check_spans(spans, len(prompt_ids))
        read = ReadLimits(min(begin for begin, _ in spans) - 1, MAX_CHUNK)
        self.add(request_id, prompt_ids, _READ_ONLY, None, terms, read)
        self._scoring.add(self._sequences[request_id].seq_id, prompt_ids, spans)

    def abort(self, request_id: str) -> bool:
        """Forget a request and free its blocks; nothing more comes for it. False if unknown."""
        seq = self._sequences.get(request_id)
        if seq is None:
            return False
        seq.finish_reason = "cancelled"
        self._forget(seq)
        self._refresh_gauges()
        return True

    @property
    def has_work(self) -> bool:
        """Some request is waiting or running, or a step is under way for one that has ended."""
        return bool(self._sequences or self._flights)

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together that one request may have."""
        return self.kv_plan.max_model_len

    @property
    def kv_tokens(self) -> int:
        """Tokens that the K/V cache holds."""
        return self.kv_plan.num_tokens

    @property
    def num_requests(self) -> int:
        """Requests waiting or running."""
        return len(self._sequences)

    @property
    def max_num_requests(self) -> int:
        """More than these at once are refused with QueueFull."""
        return self._waiting.max_requests

    def has_started(self, request_id: str) -> bool:
        """The request is here and had a place in a step. May be asked from any thread."""
        seq = self._sequences.get(request_id)
        return seq is not None and seq.times.started_at is not None

    # --- the step ---------------------------------------------------------------------------------

    def step(self) -> list[Output]:
        """Advance all requests that fit; one Output for each that got a token or ended.

        Raises Unavailable for good after a step that raised: half of its K/V may be missing.
        """
        self.begin_step()
        return self.end_step()

    def begin_step(self) -> None:
        """Schedule a step and hand it to the runner, for whom the caller need not wait yet; another
        one, too, where that needs nothing of the first but tokens which lie on a device.

        Until `end_step`, which must follow, no request may be added or aborted. Raises as `step`.
        """
        self._check_sound()
        self._is_sound = False
        self._step_started_at = self._clock()
        while self._flights.have_room:
            self._reserve()
            batch = self._scheduler.schedule()
            if batch is None:
                break
            self._note_started(batch, self._step_started_at)
            self._flights.launch(batch, self._sampling)

    def end_step(self) -> list[Output]:
        """Wait for the oldest step that was begun, and sample. Returns and raises as `step`."""
        outputs = self._postprocess(self._flights.land()) if self._flights else []
        self.stats.record_step(self._clock() - self._step_started_at)
        self._refresh_gauges()
        self._is_sound = True
        return outputs

    def _reserve(self) -> None:
        """Let whoever gets a token from the step under way, and not its last, go on behind it."""
        rows = {
            seq_id: row
            for row, seq_id in enumerate(self._flights.last_seq_ids)
            if seq_id in self._by_seq_id and self._by_seq_id[seq_id].num_left > 1
        }
        if rows:
            self._scheduler.reserve([*rows], [*rows.values()])

    def _note_started(self, batch: StepBatch, now: float) -> None:
        """Remember when each sequence got its first place in a step: until then it was queued."""
        for seq_id in batch.seq_ids:
            times = self._by_seq_id[seq_id].times
            if times.started_at is None:
                times.started_at = now
                self._waiting.num_tokens -= len(self._by_seq_id[seq_id].prompt_ids)

    def _postprocess(self, drawn: list[tuple[int, TokenLogprob | None]]) -> list[Output]:
        """Give each sequence its token; whoever is not finished goes on."""
        now = self._clock()
        outputs: list[Output] = []
        seq_ids: list[int] = []
        token_ids: list[int] = []
        for seq_id, token in drawn:
            seq = self._by_seq_id.get(seq_id)
            if seq is None:  # it has ended since the step was launched
                continue
            outputs.append(self._advance(seq, token, now))
            if seq.finish_reason is None:
                seq_ids.append(seq_id)
                token_ids.append(seq.output_ids[-1])
            else:
                self._forget(seq)
        if seq_ids:
            self._scheduler.append(seq_ids, token_ids)
        return outputs

    def _advance(self, seq: Sequence, sampled: TokenLogprob | None, now: float) -> Output:
        """Give a sequence its token, or end it where none could be drawn."""
        if not seq.output_ids:
            seq.num_cached_tokens = self._scheduler.num_cached_tokens(seq.seq_id)
            self.stats.prompt_tokens += len(seq.prompt_ids)
            self.stats.cached_tokens += seq.num_cached_tokens
        new: tuple[TokenLogprob, ...] = ()
        text = ""
        means: tuple[float, ...] = ()
        if seq.seq_id in self._scoring:
            seq.end_unanswered()
            means = self._scoring.means(seq.seq_id)
        elif sampled is None:
            text = seq.fail()
            logger.warning("no token could be drawn", extra={"request_id": seq.request_id})
        else:
            text, new = seq.append(sampled.token_id, sampled.logprob), (sampled,)
            self._record_token(seq, now)
        return Output(
            request_id=seq.request_id,
            text=text,
            token_ids=tuple(token.token_id for token in new),
            logprobs=new if seq.params.logprobs is not None else None,
            finish_reason=seq.finish_reason,
            num_prompt_tokens=len(seq.prompt_ids),
            num_cached_tokens=seq.num_cached_tokens,
            num_completion_tokens=len(seq.output_ids),
            sum_logprob=seq.sum_logprob,
            queue_s=seq.times.queue_s,
            span_logprobs=means,
        )

    # --- bookkeeping ------------------------------------------------------------------------------

    def self_check(self) -> None:
        """Recompute every table. Raises RuntimeError where one differs from what is kept."""
        self._scheduler.self_check()
        ids = {seq.seq_id for seq in self._sequences.values()}
        if not ids == self._by_seq_id.keys() == self._sampling.keys():
            raise RuntimeError("engine: its tables hold different sequences")
        if len(ids) != self._scheduler.num_running + self._scheduler.num_waiting:
            raise RuntimeError("engine: the scheduler holds other sequences")
        queued = [s for s in self._sequences.values() if s.times.started_at is None]
        if self._waiting.num_tokens != sum(len(seq.prompt_ids) for seq in queued):
            raise RuntimeError("engine: its count of queued tokens is wrong")
        if not self._scoring.seq_ids <= ids:
            raise RuntimeError("engine: it scores what is not there")
        if not ids and self._scheduler.num_free_blocks != self.kv_plan.num_blocks:
            raise RuntimeError("engine: blocks are held and nobody runs")

    def close(self) -> None:
        """Drop all requests and the runner's memory."""
        for request_id in [*self._sequences]:
            self.abort(request_id)
        self._is_sound = False
        self._flights.close()
        self._runner.close()

    def _new_sequence(
        self, request_id: str, prompt_ids: list[int], params: SamplingParams
    ) -> Sequence:
        own = () if params.ignore_eos else self._own_end_ids
        room = self.kv_plan.max_model_len - len(prompt_ids)
        seq_id, self._next_seq_id = self._next_seq_id, self._next_seq_id + 1
        return Sequence(
            request_id=request_id,
            seq_id=seq_id,
            prompt_ids=prompt_ids,
            params=params,
            end_ids=frozenset((*own, *params.stop_token_ids)),
            max_new_tokens=min(params.max_tokens, room),
            decoder=self.tokenizer.decoder(params.skip_special_tokens),
            times=Times(self._clock()),
        )

    def _forget(self, seq: Sequence) -> None:
        # A step under way may still write its K/V, to blocks that are free from here on. Whoever
        # gets them writes to them in a step that runs behind that one, before it reads.
        self._scheduler.remove(seq.seq_id)
        if seq.times.started_at is None:
            self._waiting.num_tokens -= len(seq.prompt_ids)
        del self._sequences[seq.request_id]
        del self._by_seq_id[seq.seq_id]
        del self._sampling[seq.seq_id]
        self._scoring.remove(seq.seq_id)
        total_s = self._clock() - seq.times.arrived_at
        self.stats.record_end(seq.finish_reason or "cancelled", total_s, seq.times.decode_s)
        first_s = (seq.times.first_token_at or self._clock()) - seq.times.arrived_at
        logger.info(
            "%s: %d prompt tokens (%d cached), %d new, first after %.3f s, all after %.3f s",
            *(seq.finish_reason, len(seq.prompt_ids), seq.num_cached_tokens),
            *(len(seq.output_ids), first_s, total_s),
            extra={"request_id": seq.request_id},
        )

    def _record_token(self, seq: Sequence, now: float) -> None:
        times, stats = seq.times, self.stats
        if times.last_token_at is None:
            times.first_token_at = now
            stats.record_first_token(times.queue_s, now - times.arrived_at - times.queue_s)
        else:
            stats.inter_token.add(now - times.last_token_at)
        times.last_token_at = now
        stats.completion_tokens += 1

    def _refresh_gauges(self) -> None:
        stats, scheduler = self.stats, self._scheduler
        stats.preemptions = scheduler.preemptions
        stats.num_running, stats.num_waiting = scheduler.num_running, scheduler.num_waiting
        stats.kv_usage = scheduler.kv_usage
        stats.prefix_queries = scheduler.prefix_queried_tokens
        stats.prefix_hits = scheduler.prefix_hit_tokens

    # --- checks -----------------------------------------------------------------------------------

    def _check_sound(self) -> None:
        if not self._is_sound:
            raise Unavailable("the engine is closed or a step of it failed: load it again")


def load_engine(config: EngineConfig) -> Engine:
    """The engine of the checkpoint at the path `config.model`. Raises ModelError, ConfigError."""
    checkpoint = load_checkpoint(Path(config.model))
    tokenizer = load_tokenizer(checkpoint.tokenizer_source, config.chat_template)
    return Engine(config, load_runner(config, checkpoint), tokenizer)
