// bench_linear.cpp: the linear kernels on the matrices of three models, beside what the machine allows.
//
//   cd csrc/cpu && F="g++ -std=c++17 -O3 -I.. -pthread -c" A="-mavx2 -mfma -mf16c"
//   $F {thread_pool,isa,tensor,blocks,pack,quantize,linear,linear_scalar,machine_limits}.cpp
//   $F ../../bench/csrc/bench_linear.cpp; $F $A {linear,machine_limits}_avx2.cpp
//   $F $A -mavx512{f,bw,dq,vl,vnni} -mprefer-vector-width=512 {linear,machine_limits}_avx512.cpp
//   g++ -pthread *.o -o /tmp/bench_linear; rm *.o
//   /tmp/bench_linear [threads] [isa] [rows,rows,...] [part of a matrix's name]
//
// Weights are random and go round over enough copies of a matrix that the caches do not hold them. One line
// per matrix and number of rows, best and median of the repetitions: GB/s of packed weights and GMAC/s, each
// with its share of what this machine reached just before, and the time of quantising the activations.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/linear.h"
#include "cpu/machine_limits.h"

using namespace picert::cpu;

namespace {

struct Matrix {
  const char* name;
  const char* type;
  int64_t outputs, inputs;
};

constexpr Matrix kMatrices[] = {
    {"135M gate", "Q4_1", 1536, 576},      {"135M down", "Q4_1", 576, 1536},
    {"135M q", "Q4_1", 576, 576},          {"135M output", "Q8_0", 49152, 576},
    {"0.5B gate", "Q5_0", 4864, 896},      {"0.5B down", "Q6_K", 896, 4864},
    {"0.5B output", "Q8_0", 151936, 896},  {"1.5B gate", "Q4_K", 8960, 1536},
    {"1.5B down", "Q4_K", 1536, 8960},     {"1.5B down6", "Q6_K", 1536, 8960},
    {"1.5B output", "Q6_K", 151936, 1536}, {"0.5B gate bf16", "BF16", 4864, 896},
};
constexpr size_t kDistinctBytes = size_t{160} << 20;
constexpr int64_t kMaxCopies = 40;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<uint8_t> random_weights(const Matrix& matrix, const TypeTraits& type) {
  std::vector<uint8_t> bytes(
      static_cast<size_t>(matrix.outputs * matrix.inputs / type.block_values * type.block_bytes));
  std::mt19937_64 random(1);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random() & 0xbfbfbfbfbfbfbfbfull;  // no infinite fp16
    const uint64_t brains =
        (word & 0x803f803f803f803full) | 0x3f003f003f003f00ull;  // bf16 of 0.5 to 1, no denormals
    std::memcpy(&bytes[i], type.block_values == 1 ? &brains : &word, sizeof word);
  }
  return bytes;
}

std::vector<PackedMatrix> pack_copies(const Matrix& matrix, Isa isa, ThreadPool& pool) {
  const DType dtype = parse_dtype(matrix.type);
  const std::vector<uint8_t> bytes = random_weights(matrix, traits(dtype));
  const TensorView view{dtype, matrix.outputs, matrix.inputs, bytes.data()};
  std::vector<PackedMatrix> copies;
  const double start = now_s();
  do {
    copies.push_back(pack(view, isa, pool));
  } while (copies.size() * copies[0].bytes() < kDistinctBytes && copies.size() < kMaxCopies);
  const double pack_s = (now_s() - start) / static_cast<double>(copies.size());
  std::printf(
      "%s %s [%d, %d]: %.2f bits a weight, packed at %.2f G weights/s\n", matrix.name, matrix.type,
      static_cast<int>(matrix.outputs), static_cast<int>(matrix.inputs),
      8.0 * static_cast<double>(copies[0].bytes()) / static_cast<double>(matrix.outputs * matrix.inputs),
      1e-9 * static_cast<double>(matrix.outputs * matrix.inputs) / pack_s);
  return copies;
}

struct Limits {
  double gbps, gmacs;
};

Limits measure_limits(int threads, Isa isa) {
  const Limits limits{measure_bandwidth(threads, size_t{1} << 30, isa), measure_int8_peak(threads, isa)};
  std::printf("%d threads, %s: reads %.1f GB/s, multiplies %.0f GMAC/s of int8\n", threads, isa_name(isa),
              limits.gbps, limits.gmacs);
  return limits;
}

void measure(const Matrix& matrix, Isa isa, ThreadPool& pool, const std::vector<PackedMatrix>& copies,
             int64_t rows, const Limits& limits) {
  std::vector<float> x(static_cast<size_t>(rows * matrix.inputs)),
      out(static_cast<size_t>(rows * matrix.outputs));
  std::mt19937 random(2);
  for (float& value : x) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  Activations activations;
  activations.reserve(rows, matrix.inputs);
  double quantize_s = 1e9;
  std::vector<double> times;
  const double deadline = now_s() + 1.0;
  for (int repeat = 0; repeat < 3 || (repeat < 30 && now_s() < deadline); repeat++) {
    double begun = 0, ended = 0, quantized = 0;
    pool.run([&](const Worker& worker) {
      worker.sync();
      if (worker.rank == 0) begun = now_s();
      quantize(worker, isa, x.data(), matrix.inputs, rows, matrix.inputs, activations);
      worker.sync();
      if (worker.rank == 0) quantized = now_s();
      for (const PackedMatrix& weight : copies) {
        linear(worker, isa, weight, activations, rows, nullptr, out.data(), matrix.outputs);
        worker.sync();
      }
      if (worker.rank == 0) ended = now_s();
    });
    times.push_back((ended - quantized) / static_cast<double>(copies.size()));
    quantize_s = std::min(quantize_s, quantized - begun);
  }
  std::sort(times.begin(), times.end());
  const double best = times.front(), median = times[times.size() / 2];
  const double gbytes = 1e-9 * static_cast<double>(copies[0].bytes());
  const double gmacs = 1e-9 * static_cast<double>(rows * matrix.outputs * matrix.inputs);
  std::printf("  M %3d: %6.1f GB/s (%3.0f %%) %6.1f GMAC/s (%3.0f %%)  median %6.1f GMAC/s, %8.1f us;",
              int(rows), gbytes / best, 100 * gbytes / best / limits.gbps, gmacs / best,
              100 * gmacs / best / limits.gmacs, gmacs / median, 1e6 * median);
  std::printf(" quantize %6.1f us\n", 1e6 * quantize_s);
}

}  // namespace

int main(int argc, char** argv) {
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 1);
  const Isa isa = parse_isa(argc > 2 ? argv[2] : "");
  const std::string rows_list = argc > 3 ? argv[3] : "1,2,4,8,16,32,64,128,512";
  const std::string wanted = argc > 4 ? argv[4] : "";
  const Limits limits = measure_limits(pool.size(), isa);
  for (const Matrix& matrix : kMatrices) {
    if (std::string(matrix.name).find(wanted) == std::string::npos) continue;
    const std::vector<PackedMatrix> copies = pack_copies(matrix, isa, pool);
    for (size_t at = 0; at < rows_list.size(); at = rows_list.find(',', at) + 1) {
      measure(matrix, isa, pool, copies, std::atoi(rows_list.c_str() + at), limits);
      if (rows_list.find(',', at) == std::string::npos) break;
    }
  }
}
