// linear.h: out[M, N] = x[M, K] · W[N, K]^T + bias, with W packed in tiles and x in int8 with a scale per 32
// inputs.
//
// `linear_scalar.cpp` is the meaning; `linear_avx2.cpp` and `linear_avx512.cpp` are its fast forms on the
// same tiles.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cpu/isa.h"
#include "cpu/tensor.h"
#include "cpu/thread_pool.h"

namespace picert::cpu {

// W[N, K] of one linear layer in the kernels' own layout. Move-only; owns aligned memory (huge pages asked
// for).
class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  int64_t outputs() const;  // N
  int64_t inputs() const;   // K
  size_t bytes() const;     // of memory held

  struct Impl;
  std::unique_ptr<Impl> impl;
};

// Repack `source` [N, K] on all threads of `pool`. Any N and K >= 1 and every DType are served; tails are
// padded.
PackedMatrix pack(const TensorView& source, Isa isa, ThreadPool& pool);

// How exactly activations are kept. int8: one code each. int16: a second code for what the first left over,
// at twice the work; for the logits of a model, where rounding is a third of what int8 does to the result
// (SmolLM2-135M: mean KL to fp32 logits 0.0039 with int8 everywhere, 0.0024 with exact activations in the
// last matrix alone).
enum class Precision { int8, int16 };

// Activations [M, K] quantised to int8 with their scales and group sums, in buffers that grow and are reused.
class Activations {
 public:
  Activations();
  ~Activations();
  Activations(Activations&&) noexcept;
  Activations& operator=(Activations&&) noexcept;

  // Make room for `rows` x `cols`. Not thread-safe: called before the team starts.
  void reserve(int64_t rows, int64_t cols, Precision precision = Precision::int8);

  struct Impl;
  std::unique_ptr<Impl> impl;
};

// Quantise x[M, K] (row stride ldx floats): the rows in this worker's `share(M)`. Needs reserve(>= M, >= K)
// before, and a sync before anyone reads the result. Weights kept in floating point read x itself: it must
// stay as it is until the last `linear` on `out` is over. Throws std::invalid_argument when the reserved room
// is too small.
void quantize(const Worker& worker, Isa isa, const float* x, int64_t ldx, int64_t rows, int64_t cols,
              Activations& out, Precision precision = Precision::int8);

// out[M, N] (row stride ldo floats) = x · W^T + bias[N] (null for none): this worker's share of the outputs.
// `x` must hold M rows of W.inputs() columns. A row of `out` depends on its row of x alone, to the bit: not
// on M, the other rows, or the number of workers. Throws std::invalid_argument when the columns of x are not
// W's inputs.
void linear(const Worker& worker, Isa isa, const PackedMatrix& weight, const Activations& x, int64_t rows,
            const float* bias, float* out, int64_t ldo);

}  // namespace picert::cpu
