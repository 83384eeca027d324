// blocks.h: GGML's quantised blocks, read 32 weights at a time: the one home of their byte layouts.
#pragma once

#include <cstdint>

#include "cpu/tensor.h"

namespace picert::cpu {

constexpr int kGroup = 32;  // weights that share a scale in every type (Q6_K: two halves with a scale each)

// 32 consecutive weights of a row: w[i] = scale[i / 16] * (codes[i] - zero_code(dtype)) + minimum.
struct Group {
  uint8_t codes[kGroup];
  float scale[2];
  float minimum;
};

bool is_quantized(DType dtype);

// The code that means zero in types without a minimum; 0 in the others.
int zero_code(DType dtype);

// Reads the groups of rows of one quantised type.
struct GroupReader {
  void (*unpack)(const uint8_t* block, int group, Group& out);
  int64_t block_bytes;
  int64_t block_groups;

  // Group `index` (weights 32 * index and on) of the row that starts at `row`.
  void operator()(const uint8_t* row, int64_t index, Group& out) const {
    unpack(row + index / block_groups * block_bytes, static_cast<int>(index % block_groups), out);
  }
};

// The scales of a group of Q4_K, Q5_K or Q6_K as the file has them, with the fp16 bits of their factors:
//   Q4_K, Q5_K  Group::scale is d * scale[0] for both halves, Group::minimum is -dmin * minimum
//   Q6_K        Group::scale[i] is d * scale[i]; no minimum
struct KScales {
  int8_t scale[2];
  uint8_t minimum;
  uint16_t d, dmin;
};

bool is_k_type(DType dtype);

// The scales of group `index` of the row that starts at `row`; `dtype` must be a K type.
KScales read_k_scales(DType dtype, const uint8_t* row, int64_t index);

// Throws std::invalid_argument for a type that is not quantised.
GroupReader group_reader(DType dtype);

}  // namespace picert::cpu
