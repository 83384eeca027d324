#include "sched/block_pool.h"

#include <algorithm>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>

#include "check.h"

namespace picert::sched {
namespace {

// Finaliser of SplitMix64: each input bit reaches each output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

void expect(bool ok, const std::string& what) {
  if (!ok) throw std::logic_error("block pool: " + what);
}

size_t index_size(int32_t num_blocks) {
  size_t size = 4;
  while (size < 2 * static_cast<size_t>(num_blocks)) size *= 2;
  return size;
}

}  // namespace

BlockPool::BlockPool(int32_t num_blocks, int32_t block_size) : block_size_(block_size) {
  PICERT_CHECK(num_blocks >= 1, "num_blocks is ", num_blocks, ", must be at least 1");
  PICERT_CHECK(block_size >= 1, "block_size is ", block_size, ", must be at least 1");
  PICERT_CHECK(num_blocks <= std::numeric_limits<int32_t>::max() / block_size, num_blocks, " blocks of ",
               block_size, " tokens are more than int32 slots can name");
  // Drawn per pool so that nobody can prepare prompts that pile up in one part of the index.
  seed_ = (uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  blocks_.resize(num_blocks);
  tokens_.resize(static_cast<size_t>(num_blocks) * block_size);
  index_.assign(index_size(num_blocks), kNoBlock);
  for (BlockId block = 0; block < num_blocks; ++block) push_back(block);
}

BlockId BlockPool::allocate() {
  PICERT_CHECK(first_free_ != kNoBlock, "no block is free: all ", num_blocks(), " are held");
  const BlockId block = first_free_;
  unlink(block);
  if (blocks_[block].prefix != 0) unpublish(block);
  blocks_[block].references = 1;
  return block;
}

void BlockPool::acquire(BlockId block) {
  PICERT_CHECK(block >= 0 && block < num_blocks(), "block ", block, " does not exist");
  PICERT_CHECK(blocks_[block].references > 0 || blocks_[block].prefix != 0, "block ", block,
               " holds nothing");
  if (blocks_[block].references == 0) unlink(block);
  ++blocks_[block].references;
}

void BlockPool::release(BlockId block) {
  check_held(block);
  if (--blocks_[block].references > 0) return;
  if (blocks_[block].prefix != 0) {
    push_back(block);
  } else {
    push_front(block);
  }
}

BlockId BlockPool::find(PrefixId parent, const Token* tokens) const {
  return index_[slot_of(hash(parent, tokens), parent, tokens)];
}

PrefixId BlockPool::publish(BlockId block, PrefixId parent, const Token* tokens) {
  check_held(block);
  PICERT_CHECK(blocks_[block].prefix == 0, "block ", block, " is published already");
  const uint64_t key = hash(parent, tokens);
  const size_t slot = slot_of(key, parent, tokens);
  if (index_[slot] != kNoBlock) return blocks_[index_[slot]].prefix;
  index_[slot] = block;
  std::copy_n(tokens, block_size_, &tokens_[static_cast<size_t>(block) * block_size_]);
  blocks_[block].prefix = next_prefix_++;
  blocks_[block].parent = parent;
  blocks_[block].hash = key;
  ++num_published_;
  return blocks_[block].prefix;
}

uint64_t BlockPool::hash(PrefixId parent, const Token* tokens) const {
  uint64_t state = mix(parent ^ seed_);
  for (int32_t i = 0; i < block_size_; ++i) {
    state = (state ^ static_cast<uint32_t>(tokens[i])) * 0x9e3779b97f4a7c15ULL;
    state ^= state >> 32;
  }
  return mix(state);
}

bool BlockPool::matches(BlockId block, PrefixId parent, const Token* tokens) const {
  const Token* own = &tokens_[static_cast<size_t>(block) * block_size_];
  return blocks_[block].parent == parent && std::equal(own, own + block_size_, tokens);
}

// Where the prefix stands in the index, or the empty slot where it would.
size_t BlockPool::slot_of(uint64_t hash, PrefixId parent, const Token* tokens) const {
  const size_t mask = index_.size() - 1;
  size_t slot = hash & mask;
  while (index_[slot] != kNoBlock) {
    const BlockId block = index_[slot];
    if (blocks_[block].hash == hash && matches(block, parent, tokens)) break;
    slot = (slot + 1) & mask;
  }
  return slot;
}

void BlockPool::unpublish(BlockId block) {
  const size_t mask = index_.size() - 1;
  size_t slot = blocks_[block].hash & mask;
  while (index_[slot] != block) slot = (slot + 1) & mask;
  erase_slot(slot);
  blocks_[block].prefix = 0;
  --num_published_;
}

// Linear probing without tombstones: entries behind the hole move up unless that would put them before their
// home.
void BlockPool::erase_slot(size_t hole) {
  const size_t mask = index_.size() - 1;
  for (size_t slot = (hole + 1) & mask; index_[slot] != kNoBlock; slot = (slot + 1) & mask) {
    const size_t home = blocks_[index_[slot]].hash & mask;
    if (((slot - home) & mask) < ((slot - hole) & mask)) continue;
    index_[hole] = index_[slot];
    hole = slot;
  }
  index_[hole] = kNoBlock;
}

void BlockPool::push_front(BlockId block) {
  blocks_[block].previous = kNoBlock;
  blocks_[block].next = first_free_;
  (first_free_ == kNoBlock ? last_free_ : blocks_[first_free_].previous) = block;
  first_free_ = block;
  ++num_free_;
}

void BlockPool::push_back(BlockId block) {
  blocks_[block].previous = last_free_;
  blocks_[block].next = kNoBlock;
  (last_free_ == kNoBlock ? first_free_ : blocks_[last_free_].next) = block;
  last_free_ = block;
  ++num_free_;
}

void BlockPool::unlink(BlockId block) {
  const BlockId previous = blocks_[block].previous;
  const BlockId next = blocks_[block].next;
  (previous == kNoBlock ? first_free_ : blocks_[previous].next) = next;
  (next == kNoBlock ? last_free_ : blocks_[next].previous) = previous;
  blocks_[block].previous = blocks_[block].next = kNoBlock;
  --num_free_;
}

void BlockPool::check_held(BlockId block) const {
  PICERT_CHECK(block >= 0 && block < num_blocks(), "block ", block, " does not exist");
  PICERT_CHECK(blocks_[block].references > 0, "block ", block, " is not held");
}

void BlockPool::self_check() const {
  std::vector<bool> listed(blocks_.size(), false);
  int32_t num_listed = 0;
  BlockId previous = kNoBlock;
  for (BlockId block = first_free_; block != kNoBlock; block = blocks_[block].next) {
    expect(!listed[block], "a block is in the free list twice");
    expect(blocks_[block].previous == previous, "the free list's links disagree");
    listed[block] = true;
    previous = block;
    ++num_listed;
  }
  expect(previous == last_free_, "the free list does not end at its end");
  expect(num_listed == num_free_, "the count of free blocks is wrong");
  int32_t num_published = 0;
  for (BlockId block = 0; block < num_blocks(); ++block) {
    const Block& b = blocks_[block];
    expect(b.references >= 0, "a block has negative references");
    expect((b.references == 0) == listed[block], "a block is free and held, or neither");
    if (b.prefix == 0) continue;
    ++num_published;
    expect(b.prefix < next_prefix_, "a prefix id was never given out");
    const Token* tokens = &tokens_[static_cast<size_t>(block) * block_size_];
    expect(find(b.parent, tokens) == block, "a published block cannot be found");
  }
  const auto num_indexed =
      std::count_if(index_.begin(), index_.end(), [](BlockId b) { return b != kNoBlock; });
  expect(num_published == num_published_ && num_indexed == num_published_,
         "the count of published blocks is wrong");
}

}  // namespace picert::sched
