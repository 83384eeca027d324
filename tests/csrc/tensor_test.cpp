// tensor_test.cpp: every tensor type against a decoder written here a second time, block by block; fp16 both
// ways.
#include <cmath>

#include "expect.h"

using namespace picert::cpu;

namespace {

float half_at(const uint8_t* at) {
  const int bits = at[0] | at[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return static_cast<float>(bits >> 15 ? -magnitude : magnitude);
}

// Q4_0, Q4_1, Q5_0, Q5_1: value i of a block of 32.
double simple_value(const std::string& type, const uint8_t* b, int i) {
  const bool five = type[1] == '5', offset = type[3] == '1';
  const double d = half_at(b), m = offset ? half_at(b + 2) : 0.0;
  b += offset ? 4 : 2;
  uint32_t fifth = 0;
  if (five) {
    std::memcpy(&fifth, b, 4);
    b += 4;
  }
  int q = i < 16 ? b[i] & 15 : b[i - 16] >> 4;
  if (five) q += 16 * static_cast<int>(fifth >> i & 1);
  return offset ? d * q + m : d * (q - (five ? 16 : 8));
}

// Q4_K, Q5_K: value i of a block of 256.
double k_value(const std::string& type, const uint8_t* b, int i) {
  const int j = i / 32, l = i % 32;
  const uint8_t* s = b + 4;
  const int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 0xF) | ((s[j - 4] >> 6) << 4);
  const int mn = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  const bool five = type == "Q5_K";
  const uint8_t* nibbles = b + (five ? 48 : 16) + 32 * (j / 2);
  int q = j % 2 == 0 ? nibbles[l] & 15 : nibbles[l] >> 4;
  if (five) q += (b[16 + l] >> j & 1) * 16;
  return static_cast<double>(half_at(b)) * sc * q - static_cast<double>(half_at(b + 2)) * mn;
}

double q6_value(const uint8_t* b, int i) {
  const int n = i / 128, rest = i % 128, quarter = rest / 32, l = rest % 32;
  const uint8_t *ql = b + 64 * n, *qh = b + 128 + 32 * n;
  const int low = quarter == 0   ? ql[l] & 15
                  : quarter == 1 ? ql[l + 32] & 15
                  : quarter == 2 ? ql[l] >> 4
                                 : ql[l + 32] >> 4;
  const int q = low | (qh[l] >> 2 * quarter & 3) << 4;
  return static_cast<double>(half_at(b + 208)) * static_cast<int8_t>(b[192 + 8 * n + 2 * quarter + l / 16]) *
         (q - 32);
}

double value_of(const std::string& type, const uint8_t* b, int i) {
  if (type == "Q8_0") return static_cast<double>(half_at(b)) * static_cast<int8_t>(b[2 + i]);
  if (type == "Q6_K") return q6_value(b, i);
  return type[3] == 'K' ? k_value(type, b, i) : simple_value(type, b, i);
}

void quantized_rows() {
  for (const char* type : kQuantizedTypes) {
    const Tensor tensor = random_tensor(type, 3, 768, 7);
    const TypeTraits size = traits(tensor.view.dtype);
    std::vector<float> row(768);
    for (int64_t r = 0; r < 3; r++) {
      dequantize_row(tensor.view, r, row.data());
      for (int i = 0; i < 768; i++) {
        const int64_t block = r * 768 / size.block_values + i / size.block_values;
        const double want = value_of(type, &tensor.bytes[static_cast<size_t>(block * size.block_bytes)],
                                     i % static_cast<int>(size.block_values));
        EXPECT(std::fabs(row[i] - want) <= 1e-6 * (0.1 + std::fabs(want)),
               "%s row %d value %d is %g, wanted %g", type, static_cast<int>(r), i, row[i], want);
      }
    }
  }
}

void float_rows() {
  const float values[] = {0.0f, -1.5f, 65504.0f, 0.333251953125f, -0x1p-24f};
  float out[5];
  dequantize_row({DType::f32, 1, 5, reinterpret_cast<const uint8_t*>(values)}, 0, out);
  EXPECT(std::memcmp(out, values, sizeof values) == 0, "F32 must be a copy");
  const uint16_t halves[] = {0x0000, 0xbe00, 0x7bff, 0x3555, 0x8001};
  dequantize_row({DType::f16, 1, 5, reinterpret_cast<const uint8_t*>(halves)}, 0, out);
  EXPECT(std::memcmp(out, values, sizeof values) == 0, "F16 row is off");
  const uint16_t brains[] = {0xbfc0, 0x4049};
  dequantize_row({DType::bf16, 2, 1, reinterpret_cast<const uint8_t*>(brains)}, 1, out);
  EXPECT(out[0] == 3.140625f, "BF16 row 1 is %g", out[0]);
}

void every_half_survives_a_round_trip() {
  for (int bits = 0; bits < 0x10000; bits++) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT(std::isnan(half_to_float(float_to_half(value))), "NaN %04x is lost", bits);
    } else {
      EXPECT(float_to_half(value) == half, "%04x became %04x", bits, float_to_half(value));
    }
  }
}

void halves_round_to_nearest_even() {
  for (int bits = 0; bits < 0x7bff; bits++) {  // the middle of each pair of neighbours goes to the even one
    const float low = half_to_float(static_cast<uint16_t>(bits));
    const float high = half_to_float(static_cast<uint16_t>(bits + 1)), middle = low / 2 + high / 2;
    EXPECT(float_to_half(middle) == bits + (bits & 1), "middle above %04x", bits);
    EXPECT(float_to_half(std::nextafterf(middle, high)) == bits + 1, "above the middle of %04x", bits);
    EXPECT(float_to_half(-std::nextafterf(middle, low)) == (bits | 0x8000), "below the middle of %04x", bits);
  }
  EXPECT(float_to_half(65520.0f) == 0x7c00 && float_to_half(1e30f) == 0x7c00, "overflow is infinity");
}

void unknown_names_are_refused() {
  expect_invalid([] { parse_dtype("Q3_K"); }, "'Q3_K'");
  expect_invalid([] { parse_dtype(""); }, "use F32");
  expect_invalid([] { parse_isa("sse9"); }, "'sse9'");
}

void isa_follows_the_environment() {
  setenv("PICERT_ISA", "scalar", 1);
  EXPECT(parse_isa("") == Isa::scalar, "PICERT_ISA must choose");
  EXPECT(parse_isa(isa_name(best_isa())) == best_isa(), "a name goes before the environment");
  setenv("PICERT_ISA", "nonsense", 1);
  expect_invalid([] { parse_isa(""); }, "'nonsense'");
  setenv("PICERT_ISA", "", 1);
  EXPECT(parse_isa("") == best_isa(), "an empty variable chooses nothing");
}

}  // namespace

int main(int argc, char** argv) {
  return run_case({{"quantized_rows", quantized_rows},
                   {"float_rows", float_rows},
                   {"every_half_survives_a_round_trip", every_half_survives_a_round_trip},
                   {"halves_round_to_nearest_even", halves_round_to_nearest_even},
                   {"unknown_names_are_refused", unknown_names_are_refused},
                   {"isa_follows_the_environment", isa_follows_the_environment}},
                  argc, argv);
}
