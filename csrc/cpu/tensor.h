// tensor.h: a weight as it lies in its file: a GGML type, a shape and bytes that someone else keeps mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace picert::cpu {

enum class DType { f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

struct TypeTraits {
  int64_t block_values;  // values in a block
  int64_t block_bytes;   // bytes of a block
};

// "F32", "Q4_K" … as GGUF spells them. Throws std::invalid_argument for any other.
DType parse_dtype(const std::string& name);
TypeTraits traits(DType dtype);

// A row-major view [rows, cols]; a vector has rows = 1. Rows are whole numbers of blocks.
struct TensorView {
  DType dtype;
  int64_t rows;
  int64_t cols;
  const uint8_t* data;

  int64_t row_bytes() const { return cols / traits(dtype).block_values * traits(dtype).block_bytes; }
};

// out[cols] = the fp32 values of row `row`: the scalar, obvious meaning of every type.
void dequantize_row(const TensorView& tensor, int64_t row, float* out);

}  // namespace picert::cpu
