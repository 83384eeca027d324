// expect.h: the little that these test programs need: named cases, a check that prints, random data.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/float_formats.h"
#include "cpu/isa.h"
#include "cpu/tensor.h"

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

#define EXPECT(condition, ...)                                    \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
      throw Failure(#condition);                                  \
    }                                                             \
  } while (0)

template <typename Call>
void expect_invalid(const Call& call, const char* part_of_message) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    EXPECT(std::strstr(error.what(), part_of_message) != nullptr, "message is: %s", error.what());
    return;
  }
  EXPECT(false, "nothing was thrown; wanted: %s", part_of_message);
}

struct Case {
  const char* name;
  std::function<void()> body;
};

// Runs the case named on the command line; without a name lists them all, one a line.
inline int run_case(const std::vector<Case>& cases, int argc, char** argv) {
  for (const Case& one : cases) {
    if (argc < 2) {
      std::printf("%s\n", one.name);
    } else if (std::strcmp(argv[1], one.name) == 0) {
      try {
        one.body();
        return 0;
      } catch (const Failure&) {
        return 1;
      }
    }
  }
  return argc < 2 ? 0 : 2;
}

inline const char* const kQuantizedTypes[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"};
inline const char* const kFloatTypes[] = {"F32", "F16", "BF16"};

inline std::vector<picert::cpu::Isa> isas() { return picert::cpu::supported_isas(); }

// Byte offsets in a block of its fp16 scales, which must be sane numbers while all other bytes may be
// anything.
inline std::vector<int> half_offsets(const std::string& type) {
  if (type == "Q6_K") return {208};
  const bool one = type == "Q4_0" || type == "Q5_0" || type == "Q8_0";
  return one ? std::vector<int>{0} : std::vector<int>{0, 2};
}

struct Tensor {
  std::vector<uint8_t> bytes;
  picert::cpu::TensorView view;
};

inline void fill_floats(const std::string& type, std::mt19937& random, uint8_t* at) {
  std::normal_distribution<float> normal;
  const float value = normal(random);
  const uint32_t bits = picert::cpu::bits_of_float(value);
  const auto upper = static_cast<uint16_t>(type == "F16" ? picert::cpu::float_to_half(value) : bits >> 16);
  std::memcpy(at, type == "F32" ? static_cast<const void*>(&bits) : &upper, type == "F32" ? 4 : 2);
}

inline void fill_block(const std::string& type, std::mt19937& random, int64_t size, uint8_t* at) {
  for (int64_t i = 0; i < size; i++) at[i] = static_cast<uint8_t>(random());
  std::uniform_real_distribution<float> scale(-0.02f, 0.02f);
  for (const int offset : half_offsets(type)) {
    const uint16_t half = picert::cpu::float_to_half(scale(random));
    std::memcpy(at + offset, &half, sizeof half);
  }
}

inline Tensor random_tensor(const std::string& type, int64_t rows, int64_t cols, unsigned seed) {
  const picert::cpu::DType dtype = picert::cpu::parse_dtype(type);
  const picert::cpu::TypeTraits traits = picert::cpu::traits(dtype);
  Tensor tensor;
  tensor.bytes.resize(static_cast<size_t>(rows * cols / traits.block_values * traits.block_bytes));
  tensor.view = {dtype, rows, cols, tensor.bytes.data()};
  std::mt19937 random(seed);
  for (size_t at = 0; at < tensor.bytes.size(); at += static_cast<size_t>(traits.block_bytes)) {
    if (traits.block_values == 1) {
      fill_floats(type, random, &tensor.bytes[at]);
    } else {
      fill_block(type, random, traits.block_bytes, &tensor.bytes[at]);
    }
  }
  return tensor;
}

inline std::vector<float> random_floats(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}
