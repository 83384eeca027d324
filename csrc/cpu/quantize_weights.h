// quantize_weights.h: a matrix of floating-point weights as GGML blocks, for models whose files are not
// quantised.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/tensor.h"
#include "cpu/thread_pool.h"

namespace picert::cpu {

// What to make of a model's floating-point matrices when they are loaded. q4: the logits' matrix, whose
// errors no later layer averages out, still gets 8 bits.
enum class Quantization { none, q4, q8 };

// "none", "q4" or "q8". Throws std::invalid_argument.
Quantization parse_quantization(const std::string& name);

// A quantised matrix and the bytes that its view shows.
struct QuantizedWeights {
  std::vector<uint8_t> bytes;
  TensorView view;
};

// `source` as `dtype`, on all threads. Q8_0: w ~ d * code with d = largest / 127. Q4_1: w ~ d * code + m, d
// and m the least squares over a few roundings of the group. Throws std::invalid_argument unless the source
// is F32, F16 or BF16 with columns in multiples of 32, and `dtype` one of these two.
QuantizedWeights quantize_weights(const TensorView& source, DType dtype, ThreadPool& pool);

}  // namespace picert::cpu
