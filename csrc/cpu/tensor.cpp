// tensor.cpp: the table of GGML types, and rows as fp32.
#include "cpu/tensor.h"

#include <cstring>

#include "check.h"
#include "cpu/blocks.h"
#include "cpu/float_formats.h"

namespace picert::cpu {
namespace {

struct NamedType {
  const char* name;
  DType dtype;
  TypeTraits traits;
};

constexpr NamedType kTypes[] = {
    {"F32", DType::f32, {1, 4}},       {"F16", DType::f16, {1, 2}},       {"BF16", DType::bf16, {1, 2}},
    {"Q4_0", DType::q4_0, {32, 18}},   {"Q4_1", DType::q4_1, {32, 20}},   {"Q5_0", DType::q5_0, {32, 22}},
    {"Q5_1", DType::q5_1, {32, 24}},   {"Q8_0", DType::q8_0, {32, 34}},   {"Q4_K", DType::q4_k, {256, 144}},
    {"Q5_K", DType::q5_k, {256, 176}}, {"Q6_K", DType::q6_k, {256, 210}},
};

void dequantize_floats(DType dtype, const uint8_t* row, int64_t cols, float* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, row, static_cast<size_t>(cols) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < cols; i++) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * i, sizeof bits);
    out[i] = dtype == DType::f16 ? half_to_float(bits) : bf16_to_float(bits);
  }
}

}  // namespace

DType parse_dtype(const std::string& name) {
  for (const NamedType& type : kTypes) {
    if (name == type.name) return type.dtype;
  }
  fail("tensor type is '", name, "': use F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K");
}

TypeTraits traits(DType dtype) {
  for (const NamedType& type : kTypes) {
    if (dtype == type.dtype) return type.traits;
  }
  fail("tensor type number ", static_cast<int>(dtype), " is unknown");
}

void dequantize_row(const TensorView& tensor, int64_t row, float* out) {
  const uint8_t* data = tensor.data + row * tensor.row_bytes();
  if (!is_quantized(tensor.dtype)) return dequantize_floats(tensor.dtype, data, tensor.cols, out);
  const auto zero = static_cast<float>(zero_code(tensor.dtype));
  const GroupReader read = group_reader(tensor.dtype);
  for (int64_t g = 0; g < tensor.cols / kGroup; g++) {
    Group group;
    read(data, g, group);
    for (int i = 0; i < kGroup; i++) {
      const float scale = group.scale[i / (kGroup / 2)];
      out[g * kGroup + i] = scale * (static_cast<float>(group.codes[i]) - zero) + group.minimum;
    }
  }
}

}  // namespace picert::cpu
