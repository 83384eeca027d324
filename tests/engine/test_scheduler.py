"""The C++ scheduling core against its Python twin, and the promises that a caller relies on."""

import random
from dataclasses import asdict

import numpy as np
import pytest
from simulate import TwinPool, TwinScheduler, TwinSequence, TwinStep

from picert import _C
from picert.engine.batch import StepBatch
from picert.engine.scheduler import ReadLimits, Scheduler, SchedulerLimits


def make(**changes: int | bool) -> Scheduler:
    values: dict[str, int | bool] = {
        "num_blocks": 32,
        "block_size": 4,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "max_model_len": 64,
        **changes,
    }
    return Scheduler(SchedulerLimits(**values))  # type: ignore[arg-type]


def assert_same_step(batch: StepBatch | None, twin: TwinStep) -> None:
    if batch is None:
        assert twin.seq_ids == []
        return
    wanted = asdict(twin)
    tables = wanted.pop("block_tables")
    assert list(batch.seq_ids) == wanted.pop("seq_ids")
    for name, values in wanted.items():
        assert getattr(batch, name).tolist() == values, name
    width = batch.block_tables.shape[1]
    assert batch.block_tables.tolist() == [row + [0] * (width - len(row)) for row in tables]


class Pair:
    """The core and its twin, driven alike and compared after each operation."""

    def __init__(self, rng: random.Random) -> None:
        block_size = rng.choice([1, 2, 3, 4])
        self.rng = rng
        self.max_len = rng.choice([8, 17, 40])
        need = -(-self.max_len // block_size)
        max_num_seqs = rng.choice([1, 3, 8])
        chunked = rng.random() < 0.7
        limits = {
            "num_blocks": need + rng.choice([0, 1, need, 4 * need]),
            "block_size": block_size,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max(
                max_num_seqs, rng.choice([1, 5, 64]) if chunked else self.max_len
            ),
            "prefix_caching": rng.random() < 0.8,
            "chunked_prefill": chunked,
        }
        self.core = make(**limits, max_model_len=self.max_len)
        self.twin = TwinScheduler(**limits)
        self.limits: dict[int, int] = {}  # live sequence -> its max_len
        self.next_id = 0
        self.is_ahead = rng.random() < 0.5  # steps are scheduled before the tokens of the last
        self.last_rows: list[int] = []  # whose tokens are still to come

    def add(self) -> None:
        num_prompt = self.rng.randint(1, self.rng.choice([3, self.max_len]))
        prompt = [
            self.rng.randint(0, 1) for _ in range(num_prompt)
        ]  # two tokens: many shared prefixes
        max_len = self.rng.choice([self.rng.randint(num_prompt, self.max_len), self.max_len])
        priority, salt = self.rng.choice([0, 0, 0, 1, -1]), self.rng.choice([0, 0, 0, 7])
        read = self.rng.choice([None, ReadLimits(self.rng.randint(0, num_prompt), 2)])
        limits = () if read is None else (read.max_cached, read.max_chunk)
        self.core.add(self.next_id, prompt, max_len, priority=priority, salt=salt, read=read)
        self.twin.add(self.next_id, prompt, priority, salt, *limits)
        self.limits[self.next_id] = max_len
        self.next_id += 1

    def remove(self) -> None:
        seq_id = self.rng.randrange(self.next_id + 1)
        assert self.core.remove(seq_id) == self.twin.remove(seq_id)
        self.limits.pop(seq_id, None)

    def step(self) -> None:
        reserved = self.reserve()
        batch, twin = self.core.schedule(), self.twin.schedule()
        assert_same_step(batch, twin)
        self.settle(reserved)
        self.last_rows = [twin.seq_ids[row] for row in twin.sample_rows]
        if not self.is_ahead or self.rng.random() < 0.2:
            self.settle(set())

    def reserve(self) -> set[int]:
        """Places for the tokens that are still to come, unless a sequence is full without."""
        reserved = set()
        for row, seq_id in enumerate(self.last_rows):
            if seq_id in self.limits and len(self.sequence(seq_id).tokens) < self.limits[seq_id]:
                self.core.reserve([seq_id], [row])
                self.twin.reserve(seq_id, row)
                reserved.add(seq_id)
        return reserved

    def settle(self, reserved: set[int]) -> None:
        """Give those rows their tokens, or end them."""
        for seq_id in self.last_rows:
            if seq_id not in self.limits:
                continue
            seq = self.sequence(seq_id)
            assert self.core.num_cached_tokens(seq_id) == seq.num_cached
            is_full = seq_id not in reserved and len(seq.tokens) == self.limits[seq_id]
            if is_full or self.rng.random() < 0.01:
                assert self.core.remove(seq_id)
                assert self.twin.remove(seq_id)
                del self.limits[seq_id]
            else:
                token = self.rng.randint(0, 1)
                self.core.append([seq_id], [token])
                self.twin.append(seq_id, token)
        self.last_rows = []

    def sequence(self, seq_id: int) -> TwinSequence:
        (seq,) = [s for s in self.twin.running + self.twin.waiting if s.seq_id == seq_id]
        return seq

    def check(self) -> None:
        self.core.self_check()
        assert self.core.num_running == len(self.twin.running)
        assert self.core.num_waiting == len(self.twin.waiting)
        assert self.core.num_free_blocks == len(self.twin.pool.free)
        assert self.core.preemptions == self.twin.preemptions
        assert self.core.prefix_queried_tokens == self.twin.queried
        assert self.core.prefix_hit_tokens == self.twin.hits


def drive(seed: int) -> Pair:
    rng = random.Random(seed)
    pair = Pair(rng)
    arrivals = rng.choice([0.1, 0.3, 0.5])
    for _ in range(150):
        chance = rng.random()
        if chance < arrivals and len(pair.limits) < 24:
            pair.add()
        elif chance < arrivals + 0.02:
            pair.remove()
        else:
            pair.step()
        pair.check()
    return pair


@pytest.mark.parametrize("seed", range(120))
def test_core_equals_twin_after_every_operation(seed: int) -> None:
    drive(seed)


def test_those_seeds_cover_preemption_and_sharing() -> None:
    cores = [drive(seed).core for seed in range(40)]
    assert sum(core.preemptions > 3 for core in cores) >= 5
    assert sum(core.prefix_hit_tokens > 3 for core in cores) >= 10


def run_to_end(scheduler: Scheduler, max_lens: dict[int, int]) -> int:
    """Schedule until nothing is left, with token 1 for every sample; the number of steps."""
    lens = dict.fromkeys(max_lens, 0)
    for steps in range(10_000):
        batch = scheduler.schedule()
        if batch is None:
            return steps
        for row in batch.sample_rows.tolist():
            seq_id = batch.seq_ids[row]
            lens[seq_id] = int(batch.context_lens[row])
            if lens[seq_id] == max_lens[seq_id]:
                scheduler.remove(seq_id)
            else:
                scheduler.append([seq_id], [1])
    raise AssertionError("the scheduler makes no progress")


@pytest.mark.parametrize("num_blocks", [16, 17, 20, 31])
def test_tiny_pool_finishes_every_sequence_and_frees_every_block(num_blocks: int) -> None:
    scheduler = make(num_blocks=num_blocks, max_num_seqs=8)
    max_lens = {seq_id: 20 + 4 * (seq_id % 11) for seq_id in range(40)}
    for seq_id, max_len in max_lens.items():
        scheduler.add(seq_id, [seq_id] * 10, max_len)
    run_to_end(scheduler, max_lens)
    scheduler.self_check()
    assert scheduler.preemptions > 0
    assert scheduler.num_free_blocks == num_blocks
    assert scheduler.num_running == scheduler.num_waiting == 0


def test_decodes_go_before_a_chunk_of_a_long_prompt() -> None:
    scheduler = make()
    scheduler.add(1, [1, 2, 3], 10)
    scheduler.schedule()
    scheduler.append([1], [4])
    scheduler.add(2, [5] * 40, 41)
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.seq_ids == (1, 2)
    assert batch.query_start.tolist() == [0, 1, 16]
    assert batch.sample_rows.tolist() == [0]


def test_sequences_of_one_step_share_a_prefix() -> None:
    scheduler = make(max_num_batched_tokens=32)
    prefix = [9, 8, 7, 6, 5, 4, 3, 2]
    scheduler.add(1, [*prefix, 1], 12)
    scheduler.add(2, [*prefix, 2], 12)
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.query_start.tolist() == [0, 9, 10]
    assert batch.block_tables[0, :2].tolist() == batch.block_tables[1, :2].tolist()
    assert scheduler.num_cached_tokens(2) == 8


def test_fully_cached_prompt_still_computes_its_last_token() -> None:
    scheduler = make()
    for seq_id in (1, 2):
        scheduler.add(seq_id, [1, 2, 3, 4, 5, 6, 7, 8], 8)
        batch = scheduler.schedule()
        scheduler.remove(seq_id)
    assert batch is not None
    assert batch.positions.tolist() == [4, 5, 6, 7]
    assert batch.sample_rows.tolist() == [0]


def test_other_salt_shares_nothing() -> None:
    scheduler = make(max_num_batched_tokens=32)
    scheduler.add(1, [1] * 9, 9, salt=1)
    scheduler.add(2, [1] * 9, 9, salt=2)
    scheduler.schedule()
    assert scheduler.prefix_hit_tokens == 0


def test_lower_priority_number_is_admitted_first() -> None:
    scheduler = make(max_num_seqs=1)
    scheduler.add(1, [1], 2, priority=5)
    scheduler.add(2, [2], 2, priority=-5)
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.seq_ids == (2,)


@pytest.mark.parametrize(
    ("prompt", "max_len", "words"),
    [
        ([], 4, "empty"),
        ([1] * 5, 4, "alone has 5 tokens"),
        ([1], 65, "at most max_model_len, 64"),
    ],
)
def test_add_refuses_what_can_never_run(prompt: list[int], max_len: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make().add(1, prompt, max_len)


def test_add_refuses_what_never_fits_the_cache() -> None:
    with pytest.raises(ValueError, match="never fits the 3 blocks of 4 tokens"):
        make(num_blocks=3).add(1, [1], 13)


def test_add_refuses_an_id_in_use() -> None:
    scheduler = make()
    scheduler.add(1, [1], 4)
    with pytest.raises(ValueError, match="sequence 1 exists already"):
        scheduler.add(1, [1], 4)


def test_append_refuses_a_sequence_that_was_not_computed() -> None:
    scheduler = make()
    scheduler.add(1, [1], 4)
    with pytest.raises(ValueError, match="not computed yet"):
        scheduler.append([1], [2])


def test_token_to_come_is_named_by_its_row_until_it_is_appended() -> None:
    scheduler = make(block_size=2)
    scheduler.add(1, [5], 4)
    scheduler.schedule()
    scheduler.reserve([1], [3])
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.token_ids.tolist() == [-4]
    scheduler.append([1], [7])
    scheduler.append([1], [8])
    batch = scheduler.schedule()
    assert batch is not None
    assert (batch.token_ids.tolist(), batch.positions.tolist()) == ([8], [2])


def test_block_is_found_only_once_its_last_token_is_known() -> None:
    scheduler = make(block_size=2)
    scheduler.add(1, [5], 8)
    scheduler.schedule()
    scheduler.reserve([1], [0])
    scheduler.schedule()  # fills the block
    for seq_id, num_found in ((2, 0), (3, 2)):
        scheduler.add(seq_id, [5, 7, 9], 4)
        scheduler.schedule()
        assert scheduler.num_cached_tokens(seq_id) == num_found
        scheduler.remove(seq_id)
        if num_found == 0:
            scheduler.append([1], [7])


def test_preempted_sequence_takes_its_token_in_the_queue() -> None:
    scheduler = make(num_blocks=3, block_size=2, max_model_len=4)
    for seq_id in (1, 2):
        scheduler.add(seq_id, [seq_id, 7], 4)
    scheduler.schedule()  # a full block each, one is left
    scheduler.reserve([1, 2], [0, 1])
    batch = scheduler.schedule()
    assert batch is not None
    assert (batch.seq_ids, scheduler.num_waiting) == ((1,), 1)
    scheduler.append([1, 2], [8, 9])
    scheduler.remove(1)
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.token_ids.tolist() == [9]  # the block before it was found again


def test_reserve_refuses_a_second_place_and_a_row_below_0() -> None:
    scheduler = make()
    scheduler.add(1, [1], 4)
    scheduler.schedule()
    with pytest.raises(ValueError, match="must be at least 0"):
        scheduler.reserve([1], [-1])
    scheduler.reserve([1], [0])
    with pytest.raises(ValueError, match="has a place reserved already"):
        scheduler.reserve([1], [0])


def test_negative_tokens_are_refused() -> None:
    scheduler = make()
    with pytest.raises(ValueError, match="holds token -2, ids start at 0"):
        scheduler.add(1, [1, -2], 4)
    scheduler.add(1, [1], 4)
    scheduler.schedule()
    with pytest.raises(ValueError, match="is -3, ids start at 0"):
        scheduler.append([1], [-3])


def test_append_refuses_to_outgrow_max_len() -> None:
    scheduler = make()
    scheduler.add(1, [1, 2], 2)
    scheduler.schedule()
    with pytest.raises(ValueError, match="is full"):
        scheduler.append([1], [2])


@pytest.mark.parametrize(
    "changes",
    [
        {"max_num_batched_tokens": 3},
        {"chunked_prefill": False},
        {"block_size": 0},
        {"num_blocks": 0},
        {"num_blocks": 2**30},
    ],
)
def test_contradicting_limits_are_refused(changes: dict[str, int | bool]) -> None:
    with pytest.raises(ValueError, match=r"must|more than"):
        make(**changes)


@pytest.mark.parametrize("seed", range(20))
def test_block_pool_equals_twin(seed: int) -> None:
    rng = random.Random(seed)
    block_size = rng.randint(1, 3)
    num_blocks = rng.choice([1, 2, 7, 33])
    pool, twin = _C.BlockPool(num_blocks, block_size), TwinPool(num_blocks, block_size)
    held: list[int] = []
    prefixes = [_C.BlockPool.root_prefix(), _C.BlockPool.root_prefix(3)]
    for _ in range(400):
        tokens = tuple(rng.randint(0, 1) for _ in range(block_size))
        array, parent = np.array(tokens, np.int32), rng.choice(prefixes)
        action = rng.choice(["allocate", "release", "publish", "find"])
        if action == "allocate" and twin.free:
            held.append(pool.allocate())
            assert twin.allocate() == held[-1]
        elif action == "release" and held:
            block = held.pop(rng.randrange(len(held)))
            pool.release(block)
            twin.release(block)
        elif action == "publish" and held and held[-1] not in twin.prefixes:
            prefixes.append(pool.publish(held[-1], parent, array))
            assert twin.publish(held[-1], parent, tokens) == prefixes[-1]
        else:
            found = pool.find(parent, array)
            assert found == twin.find(parent, tokens)
            if found is not None:
                pool.acquire(found[0])
                twin.acquire(found[0])
                held.append(found[0])
        pool.self_check()
        assert pool.num_free == len(twin.free)
        assert pool.num_published == len(twin.prefixes)


def test_block_pool_refuses_misuse() -> None:
    pool = _C.BlockPool(1, 2)
    block = pool.allocate()
    with pytest.raises(ValueError, match="no block is free"):
        pool.allocate()
    with pytest.raises(ValueError, match="a block holds 2 tokens, given 3"):
        pool.find(0, np.zeros(3, np.int32))
    pool.release(block)
    with pytest.raises(ValueError, match="is not held"):
        pool.release(block)
    with pytest.raises(ValueError, match="does not exist"):
        pool.release(9)
    with pytest.raises(ValueError, match="holds nothing"):
        pool.acquire(block)
