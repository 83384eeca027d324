// kv_cache.h: the paged keys and values of all layers.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/aligned_buffer.h"
#include "cpu/attention_kernels.h"

namespace picert::cpu {

// "fp16" or "int8". Throws std::invalid_argument.
inline KvFormat parse_kv_format(const std::string& name) {
  PICERT_CHECK(name == "fp16" || name == "int8", "the K/V format is '", name, "': use fp16 or int8");
  return name == "int8" ? KvFormat::int8 : KvFormat::fp16;
}

class KvCache {
 public:
  KvCache() = default;

  // Sizes from `shape`, block_size and format among them. The memory is not touched: pages become resident as
  // they are used. Throws std::invalid_argument for sizes out of reason and std::bad_alloc.
  KvCache(const AttentionShape& shape, int64_t num_layers, int64_t num_blocks)
      : num_blocks_(num_blocks), block_size_(shape.block_size), format_(shape.format) {
    constexpr int64_t kMaxSlots = std::numeric_limits<int32_t>::max();  // slots are int32
    PICERT_CHECK(block_size_ >= 4 && block_size_ % 4 == 0 && block_size_ <= 4096, "block_size is ",
                 block_size_, ", must be a multiple of 4 and at most 4096");
    PICERT_CHECK(num_blocks >= 1 && num_blocks <= kMaxSlots / block_size_, "num_blocks is ", num_blocks,
                 ", must be 1 to ", kMaxSlots / block_size_);
    const bool is_int8 = format_ == KvFormat::int8;
    const size_t number = is_int8 ? sizeof(int8_t) : sizeof(uint16_t);
    const auto keys = static_cast<size_t>(num_blocks * key_block_size(shape)) * number;
    const auto values = static_cast<size_t>(num_blocks * value_block_size(shape)) * number;
    const size_t tokens = static_cast<size_t>(num_blocks * shape.num_kv_heads * block_size_);
    const size_t scales = is_int8 ? tokens * sizeof(float) : 0;
    for (int64_t i = 0; i < num_layers; i++) {
      layers_.push_back(
          {AlignedBuffer(keys), AlignedBuffer(values), AlignedBuffer(scales), AlignedBuffer(scales)});
    }
    bytes_ = static_cast<size_t>(num_layers) * (keys + values + 2 * scales);
  }

  KvPages layer(int64_t index) {
    Layer& layer = layers_[static_cast<size_t>(index)];
    if (format_ == KvFormat::fp16) return {layer.keys.as<void>(), layer.values.as<void>(), nullptr, nullptr};
    return {layer.keys.as<void>(), layer.values.as<void>(), layer.key_scales.as<float>(),
            layer.value_scales.as<float>()};
  }
  KvFormat format() const { return format_; }
  int64_t num_blocks() const { return num_blocks_; }  // 0 until allocated
  int64_t block_size() const { return block_size_; }
  size_t bytes() const { return bytes_; }

 private:
  struct Layer {
    AlignedBuffer keys, values;              // laid out as attention_kernels.h says
    AlignedBuffer key_scales, value_scales;  // empty for fp16
  };

  int64_t num_blocks_ = 0;
  int64_t block_size_ = 0;
  KvFormat format_ = KvFormat::fp16;
  size_t bytes_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace picert::cpu
