// philox.cpp: Philox4x64 with ten rounds.
#include "sample/philox.h"

#include <array>

namespace picert::sample {
namespace {

using Block = std::array<uint64_t, 4>;
using Wide = unsigned __int128;

// Multipliers and key increments of the publication.
constexpr uint64_t kMultiplier0 = 0xD2E7470EE14C6C93, kMultiplier1 = 0xCA5A826395121157;
constexpr uint64_t kKeyStep0 = 0x9E3779B97F4A7C15, kKeyStep1 = 0xBB67AE8584CAA73B;
constexpr int kRounds = 10;

Block philox(uint64_t counter, uint64_t seed) {
  Block x = {counter, 0, 0, 0};
  uint64_t key0 = seed, key1 = 0;
  for (int round = 0; round < kRounds; round++) {
    const Wide a = static_cast<Wide>(kMultiplier0) * x[0], b = static_cast<Wide>(kMultiplier1) * x[2];
    x = {static_cast<uint64_t>(b >> 64) ^ x[1] ^ key0, static_cast<uint64_t>(b),
         static_cast<uint64_t>(a >> 64) ^ x[3] ^ key1, static_cast<uint64_t>(a)};
    key0 += kKeyStep0;
    key1 += kKeyStep1;
  }
  return x;
}

}  // namespace

// A block holds four draws; the first block's counter is 1.
double uniform(uint64_t seed, uint64_t index) {
  const uint64_t bits = philox(1 + index / 4, seed)[index % 4];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace picert::sample
