// blocks.cpp: the byte layouts of GGML's quantised types.
#include "cpu/blocks.h"

#include <cstring>

#include "check.h"
#include "cpu/float_formats.h"

namespace picert::cpu {
namespace {

constexpr int kHalf = kGroup / 2;

uint16_t read_bits(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return bits;
}

float read_half(const uint8_t* bytes) { return half_to_float(read_bits(bytes)); }

void set_scale(Group& out, float scale, float minimum) {
  out.scale[0] = out.scale[1] = scale;
  out.minimum = minimum;
}

// Weights 0..15 are low nibbles and 16..31 high nibbles of 16 bytes.
void unpack_nibbles(const uint8_t* nibbles, uint8_t* codes) {
  for (int i = 0; i < kHalf; i++) {
    codes[i] = nibbles[i] & 15;
    codes[kHalf + i] = nibbles[i] >> 4;
  }
}

// Bit i of a little-endian 32-bit word is bit 4 of code i.
void add_fifth_bits(const uint8_t* bits, uint8_t* codes) {
  for (int i = 0; i < kGroup; i++) codes[i] |= ((bits[i / 8] >> (i % 8)) & 1) << 4;
}

// Q4_0 {half d; nibbles[16]}, Q4_1 {half d, m; nibbles[16]}
template <bool has_minimum>
void unpack_q4(const uint8_t* block, int, Group& out) {
  set_scale(out, read_half(block), has_minimum ? read_half(block + 2) : 0.0f);
  unpack_nibbles(block + (has_minimum ? 4 : 2), out.codes);
}

// Q5_0 {half d; bits[4]; nibbles[16]}, Q5_1 {half d, m; bits[4]; nibbles[16]}
template <bool has_minimum>
void unpack_q5(const uint8_t* block, int, Group& out) {
  set_scale(out, read_half(block), has_minimum ? read_half(block + 2) : 0.0f);
  const uint8_t* bits = block + (has_minimum ? 4 : 2);
  unpack_nibbles(bits + 4, out.codes);
  add_fifth_bits(bits, out.codes);
}

// Q8_0 {half d; int8 codes[32]}
void unpack_q8(const uint8_t* block, int, Group& out) {
  set_scale(out, read_half(block), 0.0f);
  for (int i = 0; i < kGroup; i++) out.codes[i] = block[2 + i] ^ 0x80;  // int8 to code - 128
}

// Q4_K and Q5_K begin with {half d, dmin; scales[12]}: eight 6-bit scales and minima of groups, packed.
KScales q45_scales(const uint8_t* block, int group) {
  const uint8_t* packed = block + 4;
  int scale, minimum;
  if (group < 4) {
    scale = packed[group] & 63;
    minimum = packed[group + 4] & 63;
  } else {
    scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
    minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
  }
  const auto scale8 = static_cast<int8_t>(scale);
  return {{scale8, scale8}, static_cast<uint8_t>(minimum), read_bits(block), read_bits(block + 2)};
}

// Q6_K ends with {int8 scales[16]; half d}, two scales a group.
KScales q6_scales(const uint8_t* block, int group) {
  const uint8_t* scales = block + 192 + 2 * group;
  return {{static_cast<int8_t>(scales[0]), static_cast<int8_t>(scales[1])}, 0, read_bits(block + 208), 0};
}

void set_k_scales(const KScales& scales, Group& out) {
  const float d = half_to_float(scales.d);
  out.scale[0] = d * static_cast<float>(scales.scale[0]);
  out.scale[1] = d * static_cast<float>(scales.scale[1]);
  out.minimum = -half_to_float(scales.dmin) * static_cast<float>(scales.minimum);
}

// 32 bytes hold two groups: the even one in the low nibbles, the odd one in the high nibbles.
void unpack_k_nibbles(const uint8_t* nibbles, int group, uint8_t* codes) {
  const uint8_t* bytes = nibbles + group / 2 * kGroup;
  const int shift = group % 2 * 4;
  for (int i = 0; i < kGroup; i++) codes[i] = (bytes[i] >> shift) & 15;
}

// Q4_K {half d, dmin; scales[12]; nibbles[128]}
void unpack_q4_k(const uint8_t* block, int group, Group& out) {
  set_k_scales(q45_scales(block, group), out);
  unpack_k_nibbles(block + 16, group, out.codes);
}

// Q5_K {half d, dmin; scales[12]; bits[32]; nibbles[128]}: bit `group` of bits[i] is bit 4 of code i.
void unpack_q5_k(const uint8_t* block, int group, Group& out) {
  set_k_scales(q45_scales(block, group), out);
  unpack_k_nibbles(block + 48, group, out.codes);
  for (int i = 0; i < kGroup; i++) out.codes[i] |= ((block[16 + i] >> group) & 1) << 4;
}

// Q6_K {low[128]; high[64]; int8 scales[16]; half d}: two halves of four groups. In a half, groups 0 and 1
// take the low and 2 and 3 the high nibbles of low[0..31] and low[32..63]; high[i] has two bits for each of
// the four.
void unpack_q6_k(const uint8_t* block, int group, Group& out) {
  const int half = group / 4, quarter = group % 4;
  const uint8_t* low = block + 64 * half + 32 * (quarter % 2);
  const uint8_t* high = block + 128 + 32 * half;
  const int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
  for (int i = 0; i < kGroup; i++) {
    out.codes[i] = ((low[i] >> low_shift) & 15) | ((high[i] >> high_shift) & 3) << 4;
  }
  set_k_scales(q6_scales(block, group), out);
}

}  // namespace

bool is_quantized(DType dtype) { return dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16; }

int zero_code(DType dtype) {
  switch (dtype) {
    case DType::q4_0:
      return 8;
    case DType::q5_0:
      return 16;
    case DType::q6_k:
      return 32;
    case DType::q8_0:
      return 128;
    default:
      return 0;
  }
}

bool is_k_type(DType dtype) { return dtype == DType::q4_k || dtype == DType::q5_k || dtype == DType::q6_k; }

KScales read_k_scales(DType dtype, const uint8_t* row, int64_t index) {
  const TypeTraits type = traits(dtype);
  const int64_t block_groups = type.block_values / kGroup;
  const uint8_t* block = row + index / block_groups * type.block_bytes;
  const auto group = static_cast<int>(index % block_groups);
  return dtype == DType::q6_k ? q6_scales(block, group) : q45_scales(block, group);
}

GroupReader group_reader(DType dtype) {
  const TypeTraits type = traits(dtype);
  const auto reader = [&](auto unpack) {
    return GroupReader{unpack, type.block_bytes, type.block_values / kGroup};
  };
  switch (dtype) {
    case DType::q4_0:
      return reader(unpack_q4<false>);
    case DType::q4_1:
      return reader(unpack_q4<true>);
    case DType::q5_0:
      return reader(unpack_q5<false>);
    case DType::q5_1:
      return reader(unpack_q5<true>);
    case DType::q8_0:
      return reader(unpack_q8);
    case DType::q4_k:
      return reader(unpack_q4_k);
    case DType::q5_k:
      return reader(unpack_q5_k);
    case DType::q6_k:
      return reader(unpack_q6_k);
    default:
      fail("tensor type number ", static_cast<int>(dtype), " has no groups");
  }
}

}  // namespace picert::cpu
