// machine_limits_avx2.cpp: the loops of machine_limits.h with 256-bit vectors.
#include <immintrin.h>

#include "cpu/machine_limits.h"

namespace picert::cpu {
namespace {

// Two units with up to five cycles of latency keep ten in flight; two more for what the scheduler misses.
constexpr int kChains = 12;

uint32_t lane_sum(__m256i x) {
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), x);
  uint32_t total = 0;
  for (const uint32_t lane : lanes) total += lane;
  return total;
}

uint32_t read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m256i sums[8] = {};
  for (size_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 8; j++) {
      sums[j] =
          _mm256_add_epi32(sums[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 32 * j)));
    }
    for (int j = 0; j < 4; j++) _mm_prefetch(p + i + 4096 + 64 * j, _MM_HINT_T0);
  }
  uint32_t total = 0;
  for (int j = 0; j < 8; j++) total += lane_sum(sums[j]);
  return total;
}

// Two instructions and an addition, as there is no dot product into 32 bits. The empty asm keeps the compiler
// from seeing that each round adds the same.
int64_t int8_rounds(int64_t rounds, uint32_t* sink) {
  __m256i sums[kChains] = {};
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(static_cast<char>(*sink & 63u));
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; j++) {
      __asm__ volatile("" : "+x"(a), "+x"(b));
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
  for (int j = 0; j < kChains; j++) *sink += lane_sum(sums[j]);
  return rounds * kChains * 32;
}

int64_t fp32_rounds(int64_t rounds, uint32_t* sink) {
  __m256 sums[kChains] = {};
  __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(static_cast<float>(*sink & 7u));
  for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; j++) {
      __asm__ volatile("" : "+x"(a), "+x"(b));
      sums[j] = _mm256_fmadd_ps(sums[j], a, b);
    }
  }
  for (int j = 0; j < kChains; j++) *sink += lane_sum(_mm256_cvtps_epi32(sums[j]));
  return rounds * kChains * 8;
}

}  // namespace

const LimitLoops avx2::kLimitLoops = {read, int8_rounds, fp32_rounds};

}  // namespace picert::cpu
