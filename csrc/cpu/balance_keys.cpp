// balance_keys.cpp: the factors, and where they go.
#include "cpu/balance_keys.h"

#include <algorithm>
#include <cmath>

#include "cpu/activations.h"

namespace picert::cpu {
namespace {

// How large each channel of the keys gets [G D]: its bias, and what the weights add to it for an input of
// which the norm has left the mean square of one, three times its root mean square.
std::vector<float> channel_sizes(const TensorView& weight, const LayerWeights& layer) {
  std::vector<float> sizes, row(static_cast<size_t>(weight.cols));
  for (int64_t n = 0; n < weight.rows; n++) {
    dequantize_row(weight, n, row.data());
    float squares = 0.0f;
    for (size_t k = 0; k < row.size(); k++) {
      const float value = row[k] * layer.attn_norm[k];
      squares += value * value;
    }
    sizes.push_back(std::fabs(layer.k_bias[static_cast<size_t>(n)]) + 3.0f * std::sqrt(squares));
  }
  return sizes;
}

// Factors[D / 2] of the rotary pairs (d, d + D / 2) of one head, from its channels' sizes[D]. Both of a pair
// have the same, for a rotation mixes them; powers of two keep every bit of an fp16 page.
std::vector<float> pair_factors(const float* sizes, int64_t half) {
  std::vector<float> largest(static_cast<size_t>(half));
  for (size_t d = 0; d < largest.size(); d++) {
    largest[d] = std::max(sizes[d], sizes[d + largest.size()]);
  }
  std::vector<float> sorted = largest;
  std::nth_element(sorted.begin(), sorted.begin() + half / 2, sorted.end());
  const float median = sorted[static_cast<size_t>(half / 2)];
  std::vector<float> factors;
  for (const float size : largest) {
    const bool is_sane = median > 0.0f && size > 0.0f && std::isfinite(size / median);
    factors.push_back(is_sane ? std::exp2(std::round(std::log2(size / median))) : 1.0f);
  }
  return factors;
}

bool has_units(const PackedMatrix& matrix) {
  const Format format = matrix.impl->format;
  return format != Format::f32 && format != Format::f16 && format != Format::bf16;
}

void scale_head(PackedMatrix& matrix, std::vector<float>& bias, int64_t first, int64_t half,
                const std::vector<float>& factors, bool up) {
  float* units = matrix.impl->units.as<float>();
  for (int64_t d = 0; d < 2 * half; d++) {
    const float factor = factors[static_cast<size_t>(d % half)];
    units[first + d] *= up ? factor : 1.0f / factor;
    bias[static_cast<size_t>(first + d)] *= up ? factor : 1.0f / factor;
  }
}

}  // namespace

void balance_keys(const DecoderConfig& config, const TensorView& k_weight, LayerWeights& layer) {
  if (!config.qkv_bias || config.qk_norm || !has_units(layer.q) || !has_units(layer.k)) return;
  const int64_t dim = config.head_dim, half = dim / 2, group = config.num_heads / config.num_kv_heads;
  const std::vector<float> sizes = channel_sizes(k_weight, layer);
  for (int64_t head = 0; head < config.num_kv_heads; head++) {
    const std::vector<float> factors = pair_factors(sizes.data() + head * dim, half);
    scale_head(layer.k, layer.k_bias, head * dim, half, factors, false);
    for (int64_t h = head * group; h < (head + 1) * group; h++) {
      scale_head(layer.q, layer.q_bias, h * dim, half, factors, true);
    }
  }
}

}  // namespace picert::cpu
