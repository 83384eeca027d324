// machine_limits_avx512.cpp: the loops of machine_limits.h with 512-bit vectors and VNNI.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // as in vec_avx512.h
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include "cpu/machine_limits.h"

namespace picert::cpu {
namespace {

// Two units with up to five cycles of latency keep ten in flight; two more for what the scheduler misses.
constexpr int kChains = 12;

uint32_t read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m512i sums[4] = {};
  for (size_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; j++) sums[j] = _mm512_add_epi32(sums[j], _mm512_loadu_si512(p + i + 64 * j));
    for (int j = 0; j < 4; j++) _mm_prefetch(p + i + 4096 + 64 * j, _MM_HINT_T0);
  }
  const __m512i all =
      _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
  return static_cast<uint32_t>(_mm512_reduce_add_epi32(all));
}

// The empty asm keeps the compiler from seeing that all chains, and all rounds, add the same.
int64_t int8_rounds(int64_t rounds, uint32_t* sink) {
  __m512i sums[kChains] = {};
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(static_cast<char>(*sink));
  for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; j++) {
      __asm__ volatile("" : "+v"(a), "+v"(b));
      sums[j] = _mm512_dpbusd_epi32(sums[j], a, b);
    }
  }
  for (int j = 0; j < kChains; j++) *sink += static_cast<uint32_t>(_mm512_reduce_add_epi32(sums[j]));
  return rounds * kChains * 64;
}

int64_t fp32_rounds(int64_t rounds, uint32_t* sink) {
  __m512 sums[kChains] = {};
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(static_cast<float>(*sink & 7u));
  for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; j++) {
      __asm__ volatile("" : "+v"(a), "+v"(b));
      sums[j] = _mm512_fmadd_ps(sums[j], a, b);
    }
  }
  for (int j = 0; j < kChains; j++) *sink += static_cast<uint32_t>(_mm512_reduce_add_ps(sums[j]));
  return rounds * kChains * 16;
}

}  // namespace

const LimitLoops avx512::kLimitLoops = {read, int8_rounds, fp32_rounds};

}  // namespace picert::cpu
