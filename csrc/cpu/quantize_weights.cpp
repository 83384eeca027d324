// quantize_weights.cpp: 32 weights to a block, as GGML lays them out.
#include "cpu/quantize_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "cpu/blocks.h"
#include "cpu/float_formats.h"

namespace picert::cpu {
namespace {

constexpr int kHalf = kGroup / 2;

void store_half(float value, uint8_t* bytes) {
  const uint16_t bits = float_to_half(value);
  std::memcpy(bytes, &bits, sizeof bits);
}

// Q8_0 {half d; int8 codes[32]}
void encode_q8_0(const float* w, uint8_t* block) {
  float largest = 0.0f;
  for (int i = 0; i < kGroup; i++) largest = std::max(largest, std::fabs(w[i]));
  const float d = largest / 127.0f, inverse = d > 0.0f ? 1.0f / d : 0.0f;
  store_half(d, block);
  for (int i = 0; i < kGroup; i++) {
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(w[i] * inverse)));
  }
}

// w[i] ~ d * code[i] + m, and the squared error of that.
struct Fit {
  float d, m, error;
  uint8_t codes[kGroup];
};

// Codes 0 .. 15 by rounding with step `step` from `low`, then the d and m that fit them best: the normal
// equations of a line through the points (code, w).
Fit fit_line(const float* w, float low, float step) {
  Fit fit{};
  float sum_c = 0.0f, sum_cc = 0.0f, sum_w = 0.0f, sum_cw = 0.0f;
  for (int i = 0; i < kGroup; i++) {
    const float code = std::min(15.0f, std::max(0.0f, std::nearbyint((w[i] - low) / step)));
    fit.codes[i] = static_cast<uint8_t>(code);
    sum_c += code;
    sum_cc += code * code;
    sum_w += w[i];
    sum_cw += code * w[i];
  }
  const float det = kGroup * sum_cc - sum_c * sum_c;
  fit.d = det > 0.0f ? (kGroup * sum_cw - sum_c * sum_w) / det : step;
  fit.m = (sum_w - fit.d * sum_c) / kGroup;
  for (int i = 0; i < kGroup; i++) {
    const float miss = w[i] - (fit.d * fit.codes[i] + fit.m);
    fit.error += miss * miss;
  }
  return fit;
}

// Q4_1 {half d, m; nibbles[16]}. The range is tried whole and a little narrower: cutting the two outermost
// weights often costs less than a coarser step for the thirty others.
void encode_q4_1(const float* w, uint8_t* block) {
  const auto [lowest, highest] = std::minmax_element(w, w + kGroup);
  const float range = *highest - *lowest;
  Fit best{0.0f, *lowest, 0.0f, {}};
  if (range > 0.0f && std::isfinite(range)) {
    best = fit_line(w, *lowest, range / 15.0f);
    for (const float cut : {0.04f, 0.08f, 0.12f}) {
      const Fit fit = fit_line(w, *lowest + 0.5f * cut * range, (1.0f - cut) * range / 15.0f);
      if (fit.error < best.error) best = fit;
    }
  }
  store_half(best.d, block);
  store_half(best.m, block + 2);
  for (int i = 0; i < kHalf; i++) {
    block[4 + i] = static_cast<uint8_t>(best.codes[i] | best.codes[kHalf + i] << 4);
  }
}

}  // namespace

Quantization parse_quantization(const std::string& name) {
  if (name == "none") return Quantization::none;
  if (name == "q4") return Quantization::q4;
  if (name == "q8") return Quantization::q8;
  fail("quantization is '", name, "': use none, q4 or q8");
}

QuantizedWeights quantize_weights(const TensorView& source, DType dtype, ThreadPool& pool) {
  PICERT_CHECK(dtype == DType::q4_1 || dtype == DType::q8_0, "weights are quantised to Q4_1 or Q8_0 only");
  PICERT_CHECK(!is_quantized(source.dtype), "the weights are quantised already");
  PICERT_CHECK(source.cols % kGroup == 0, "a matrix with rows of ", source.cols,
               " weights cannot be quantised: rows must be a multiple of ", kGroup);
  const TypeTraits type = traits(dtype);
  const int64_t row_bytes = source.cols / type.block_values * type.block_bytes;
  QuantizedWeights result{std::vector<uint8_t>(static_cast<size_t>(source.rows * row_bytes)), {}};
  result.view = {dtype, source.rows, source.cols, result.bytes.data()};
  const auto encode = dtype == DType::q8_0 ? encode_q8_0 : encode_q4_1;
  pool.run([&](const Worker& worker) {
    std::vector<float> row(static_cast<size_t>(source.cols));
    const auto [begin, end] = worker.share(source.rows);
    for (int64_t r = begin; r < end; r++) {
      dequantize_row(source, r, row.data());
      uint8_t* block = result.bytes.data() + r * row_bytes;
      for (int64_t k = 0; k < source.cols; k += kGroup, block += type.block_bytes) {
        encode(row.data() + k, block);
      }
    }
  });
  return result;
}

}  // namespace picert::cpu
