// block_pool.h: which blocks of the paged K/V memory are free, shared or remembered. It owns numbers, not
// memory.
//
// A full block whose K/V is (or, by the end of the running step, will be) written is *published* under the
// exact prefix it ends: the pair (prefix before it, its own tokens). A later sequence that begins with the
// same tokens finds it and shares it. A match compares tokens and prefix ids, not hashes, so no collision can
// serve another text's K/V. Only full blocks are shared and a full block is never written again, so there is
// nothing to copy on write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace picert::sched {

using Token = int32_t;
using BlockId = int32_t;

// The name of one exact token prefix. Ids are never reused, so a prefix whose block was evicted cannot be
// mistaken for another: its descendants merely become unreachable and age out.
using PrefixId = uint64_t;

constexpr BlockId kNoBlock = -1;

// The empty prefix. Sequences with different salts (below 2^63) never share a block.
constexpr PrefixId root_prefix(uint64_t salt) { return salt | (uint64_t{1} << 63); }

class BlockPool {
 public:
  // Throws std::invalid_argument unless both are at least 1.
  BlockPool(int32_t num_blocks, int32_t block_size);

  // A block with one reference, contents undefined. Blocks that hold nothing go first, then the published one
  // that has been free longest, which is thereby forgotten. Throws std::invalid_argument if no block is free.
  BlockId allocate();

  // One more, or one less, reference. A block without references is free but stays findable while published.
  void acquire(BlockId block);
  void release(BlockId block);

  // The block published for `parent` followed by tokens[block_size], or kNoBlock. Takes no reference.
  BlockId find(PrefixId parent, const Token* tokens) const;

  // Publish a held block and return the id of the prefix that it ends. If another block is already published
  // for it, that one's id is returned and `block` stays private.
  PrefixId publish(BlockId block, PrefixId parent, const Token* tokens);

  // Of a published block.
  PrefixId prefix_of(BlockId block) const { return blocks_[block].prefix; }

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t block_size() const { return block_size_; }
  int32_t num_free() const { return num_free_; }  // published ones among them
  int32_t num_published() const { return num_published_; }
  int32_t references(BlockId block) const { return blocks_[block].references; }

  // Throws std::logic_error unless every list, count and index agrees with what recomputing it gives.
  void self_check() const;

 private:
  struct Block {
    int32_t references = 0;
    BlockId previous = kNoBlock;  // neighbours in the free list
    BlockId next = kNoBlock;
    PrefixId prefix = 0;  // 0: not published
    PrefixId parent = 0;
    uint64_t hash = 0;  // of (parent, tokens)
  };

  uint64_t hash(PrefixId parent, const Token* tokens) const;
  bool matches(BlockId block, PrefixId parent, const Token* tokens) const;
  size_t slot_of(uint64_t hash, PrefixId parent, const Token* tokens) const;
  void unpublish(BlockId block);
  void erase_slot(size_t slot);
  void push_front(BlockId block);
  void push_back(BlockId block);
  void unlink(BlockId block);
  void check_held(BlockId block) const;

  int32_t block_size_;
  int32_t num_free_ = 0;
  int32_t num_published_ = 0;
  BlockId first_free_ = kNoBlock;
  BlockId last_free_ = kNoBlock;
  PrefixId next_prefix_ = 1;
  uint64_t seed_;
  std::vector<Block> blocks_;
  std::vector<Token> tokens_;   // [num_blocks, block_size] of published blocks
  std::vector<BlockId> index_;  // open addressing, linear probing; at most half full
};

}  // namespace picert::sched
