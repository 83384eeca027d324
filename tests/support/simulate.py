"""The scheduling core, slow and obvious: everything looked up afresh, nothing incremental.

It is the oracle of picert._C.BlockPool and StepScheduler: same rules (csrc/sched/step_scheduler.h),
other code. Beyond what they keep, it remembers which tokens each slot's K/V was computed from, so a
wrong share fails an assertion here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Key = tuple[int, tuple[int, ...]]  # (prefix before, tokens of the block)


class TwinPool:
    """Blocks as a list of references; the free list as a list, next to be taken first."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.references = [0] * num_blocks
        self.free = list(range(num_blocks))
        self.prefixes: dict[int, tuple[Key, int]] = {}  # published block -> its key and prefix id
        self.next_prefix = 1

    def allocate(self) -> int:
        block = self.free.pop(0)
        self.prefixes.pop(block, None)
        self.references[block] = 1
        return block

    def acquire(self, block: int) -> None:
        if self.references[block] == 0:
            self.free.remove(block)
        self.references[block] += 1

    def release(self, block: int) -> None:
        self.references[block] -= 1
        if self.references[block] == 0:
            self.free.insert(len(self.free) if block in self.prefixes else 0, block)

    def find(self, parent: int, tokens: tuple[int, ...]) -> tuple[int, int] | None:
        for block, (key, prefix) in self.prefixes.items():
            if key == (parent, tokens):
                return block, prefix
        return None

    def publish(self, block: int, parent: int, tokens: tuple[int, ...]) -> int:
        found = self.find(parent, tokens)
        if found is not None:
            return found[1]
        self.prefixes[block] = ((parent, tokens), self.next_prefix)
        self.next_prefix += 1
        return self.prefixes[block][1]


@dataclass
class TwinSequence:
    """One sequence and what the cache holds of it."""

    seq_id: int
    order: tuple[int, int]  # (priority, arrival)
    salt: int
    tokens: list[int]
    max_cached: int
    max_chunk: int
    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0
    published: list[int] = field(default_factory=list)  # prefix ids of its full blocks
    num_cached: int | None = None

    @property
    def num_left(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def last_prefix(self) -> int:
        return self.published[-1] if self.published else self.salt | 1 << 63


@dataclass
class TwinStep:
    """A step as plain lists; block tables without padding."""

    seq_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slot_mapping: list[int] = field(default_factory=list)
    query_start: list[int] = field(default_factory=lambda: [0])
    context_lens: list[int] = field(default_factory=list)
    block_tables: list[list[int]] = field(default_factory=list)
    logits_indices: list[int] = field(default_factory=list)
    sample_rows: list[int] = field(default_factory=list)


class TwinScheduler:
    """StepScheduler's rules, one after the other."""

    def __init__(  # noqa: PLR0913 - the limits of the real one
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefix_caching: bool,
        chunked_prefill: bool,
    ) -> None:
        self.pool = TwinPool(num_blocks, block_size)
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.prefix_caching = prefix_caching
        self.chunked_prefill = chunked_prefill
        self.running: list[TwinSequence] = []
        self.waiting: list[TwinSequence] = []
        self.arrivals = 0
        self.preemptions = 0
        self.queried = 0
        self.hits = 0
        self.memory: dict[
            int, tuple[int, ...]
        ] = {}  # slot -> salt and all tokens up to the one stored there

    def add(  # noqa: PLR0913 - as the real one
        self,
        seq_id: int,
        tokens: list[int],
        priority: int = 0,
        salt: int = 0,
        max_cached: int = 10**9,
        max_chunk: int = 10**9,
    ) -> None:
        order = (priority, self.arrivals)
        self.arrivals += 1
        self.waiting.append(TwinSequence(seq_id, order, salt, list(tokens), max_cached, max_chunk))

    def remove(self, seq_id: int) -> bool:
        for queue in (self.running, self.waiting):
            for seq in queue:
                if seq.seq_id == seq_id:
                    queue.remove(seq)
                    self._give_up(seq)
                    return True
        return False

    def append(self, seq_id: int, token: int) -> None:
        (seq,) = [seq for seq in self.running + self.waiting if seq.seq_id == seq_id]
        if seq.tokens[-1] >= 0:
            assert seq.num_left == 0
            seq.tokens.append(token)
            return
        seq.tokens[-1] = token
        if seq.num_computed == len(seq.tokens):
            self.memory[self._slot(seq, seq.num_computed - 1)] = (seq.salt, *seq.tokens)
            self._publish(seq)

    def reserve(self, seq_id: int, row: int) -> None:
        (seq,) = [seq for seq in self.running if seq.seq_id == seq_id]
        assert seq.num_left == 0
        seq.tokens.append(-1 - row)

    def schedule(self) -> TwinStep:
        before = self.preemptions
        planned = self._plan_running()
        step = TwinStep()
        in_order = [
            seq for seq in sorted(self.running, key=lambda s: s.order) if seq.seq_id in planned
        ]
        decodes_first = sorted(in_order, key=lambda seq: seq.num_left != 1)
        for seq in decodes_first:
            self._emit(step, seq, planned[seq.seq_id])
        budget = self.max_num_batched_tokens - sum(planned.values())
        while self.preemptions == before and self.waiting and budget > 0:
            seq = min(self.waiting, key=lambda s: s.order)
            num_new = self._try_admit(seq, budget)
            if num_new is None:
                break
            self._emit(step, seq, num_new)
            budget -= num_new
        return step

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _max_chunk(self, seq: TwinSequence) -> int:
        return seq.max_chunk if self.chunked_prefill else len(seq.tokens)

    def _give_up(self, seq: TwinSequence) -> None:
        for block in reversed(seq.blocks):
            self.pool.release(block)
        seq.blocks, seq.published, seq.num_computed = [], [], 0

    def _plan_running(self) -> dict[int, int]:
        planned: dict[int, int] = {}
        for decodes in (True, False):
            for seq in sorted(self.running, key=lambda s: s.order):
                budget = self.max_num_batched_tokens - sum(planned.values())
                num_new = min(seq.num_left, budget, self._max_chunk(seq))
                unwanted = seq.seq_id in planned or (seq.num_left == 1) != decodes
                if seq not in self.running or unwanted or num_new == 0:
                    continue
                if self._make_room(seq, num_new, planned):
                    planned[seq.seq_id] = num_new
        return planned

    def _make_room(self, seq: TwinSequence, num_new: int, planned: dict[int, int]) -> bool:
        needed = self._blocks_for(seq.num_computed + num_new) - len(seq.blocks)
        while len(self.pool.free) < needed:
            last = max(self.running, key=lambda s: s.order)
            self.running.remove(last)
            self._give_up(last)
            self.waiting.append(last)
            planned.pop(last.seq_id, None)
            self.preemptions += 1
            if last is seq:
                return False
        seq.blocks += [self.pool.allocate() for _ in range(needed)]
        return True

    def _match(self, seq: TwinSequence) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        prefix = seq.salt | 1 << 63
        most = min(seq.max_cached, len(seq.tokens) - 1)
        while self.prefix_caching and (len(found) + 1) * self.block_size <= most:
            start = len(found) * self.block_size
            match = self.pool.find(prefix, tuple(seq.tokens[start : start + self.block_size]))
            if match is None:
                break
            found.append(match)
            prefix = match[1]
        return found

    def _try_admit(self, seq: TwinSequence, budget: int) -> int | None:
        if len(self.running) >= self.max_num_seqs:
            return None
        found = self._match(seq)
        num_cached = len(found) * self.block_size
        num_new = min(len(seq.tokens) - num_cached, budget, self._max_chunk(seq))
        if not self.chunked_prefill and num_cached + num_new < len(seq.tokens):
            return None
        fresh = self._blocks_for(len(seq.tokens)) - len(found)
        revived = sum(self.pool.references[block] == 0 for block, _ in found)
        if len(self.pool.free) < fresh + revived + len(self.running):
            return None
        for block, prefix in found:
            self.pool.acquire(block)
            seq.blocks.append(block)
            seq.published.append(prefix)
        seq.num_computed = num_cached
        for _ in range(self._blocks_for(num_cached + num_new) - len(found)):
            seq.blocks.append(self.pool.allocate())
        if seq.num_cached is None:
            seq.num_cached = num_cached
            self.queried += len(seq.tokens)
            self.hits += num_cached
        self.waiting.remove(seq)
        self.running.append(seq)
        return num_new

    def _slot(self, seq: TwinSequence, position: int) -> int:
        return (
            seq.blocks[position // self.block_size] * self.block_size + position % self.block_size
        )

    def _emit(self, step: TwinStep, seq: TwinSequence, num_new: int) -> None:
        for position in range(seq.num_computed, seq.num_computed + num_new):
            step.token_ids.append(seq.tokens[position])
            step.positions.append(position)
            step.slot_mapping.append(self._slot(seq, position))
            self.memory[self._slot(seq, position)] = (seq.salt, *seq.tokens[: position + 1])
        seq.num_computed += num_new
        for position in range(seq.num_computed):
            assert self.memory[self._slot(seq, position)] == (seq.salt, *seq.tokens[: position + 1])
        step.seq_ids.append(seq.seq_id)
        step.query_start.append(len(step.token_ids))
        step.context_lens.append(seq.num_computed)
        step.block_tables.append(list(seq.blocks))
        if seq.num_left == 0:
            step.logits_indices.append(len(step.token_ids) - 1)
            step.sample_rows.append(len(step.seq_ids) - 1)
        self._publish(seq)

    def _publish(self, seq: TwinSequence) -> None:
        while (
            self.prefix_caching and (len(seq.published) + 1) * self.block_size <= seq.num_computed
        ):
            start = len(seq.published) * self.block_size
            tokens = tuple(seq.tokens[start : start + self.block_size])
            if tokens[-1] < 0:
                return
            block = seq.blocks[len(seq.published)]
            seq.published.append(self.pool.publish(block, seq.last_prefix, tokens))
