// kv_cache.h: the paged keys and values of all layers in fp16, laid out as attention_kernels.h says.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/aligned_buffer.h"
#include "cpu/attention_kernels.h"

namespace picert::cpu {

class KvCache {
 public:
  KvCache() = default;

  // Sizes from `shape`, block_size among them. The memory is not touched: pages become resident as they are
  // used. Throws std::invalid_argument for sizes out of reason and std::bad_alloc.
  KvCache(const AttentionShape& shape, int64_t num_layers, int64_t num_blocks)
      : num_blocks_(num_blocks), block_size_(shape.block_size) {
    constexpr int64_t kMaxSlots = std::numeric_limits<int32_t>::max();  // slots are int32
    PICERT_CHECK(block_size_ >= 4 && block_size_ % 4 == 0 && block_size_ <= 4096, "block_size is ",
                 block_size_, ", must be a multiple of 4 and at most 4096");
    PICERT_CHECK(num_blocks >= 1 && num_blocks <= kMaxSlots / block_size_, "num_blocks is ", num_blocks,
                 ", must be 1 to ", kMaxSlots / block_size_);
    const auto keys = static_cast<size_t>(num_blocks * key_block_size(shape)) * sizeof(uint16_t);
    const auto values = static_cast<size_t>(num_blocks * value_block_size(shape)) * sizeof(uint16_t);
    for (int64_t i = 0; i < num_layers; i++) {
      keys_.emplace_back(keys);
      values_.emplace_back(values);
    }
    bytes_ = static_cast<size_t>(num_layers) * (keys + values);
  }

  KvPages layer(int64_t index) {
    const auto i = static_cast<size_t>(index);
    return {keys_[i].as<uint16_t>(), values_[i].as<uint16_t>()};
  }
  int64_t num_blocks() const { return num_blocks_; }  // 0 until allocated
  int64_t block_size() const { return block_size_; }
  size_t bytes() const { return bytes_; }

 private:
  int64_t num_blocks_ = 0;
  int64_t block_size_ = 0;
  size_t bytes_ = 0;
  std::vector<AlignedBuffer> keys_;
  std::vector<AlignedBuffer> values_;
};

}  // namespace picert::cpu
