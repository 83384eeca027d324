// linear_test.cpp: packing, quantising and multiplying, on every instruction set that this CPU has.
#include "cpu/linear.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/activations.h"
#include "expect.h"

using namespace picert::cpu;

namespace {

struct Shape {
  int64_t m, n, k;
};

struct Product {
  std::vector<float> out;  // [m, n]
  std::vector<ActivationGroup> groups;
};

// out = x · W^T + bias through the public functions, in rows that are wider than n to catch writes past the
// end.
Product multiply(const PackedMatrix& weight, Isa isa, ThreadPool& pool, const float* x, int64_t m,
                 const float* bias, Precision precision = Precision::int8) {
  const int64_t n = weight.outputs(), k = weight.inputs(), ldo = n + 3;
  const float untouched = -12345.0f;
  std::vector<float> wide(static_cast<size_t>(m * ldo), untouched);
  Activations activations;
  activations.reserve(m, k, precision);
  pool.run([&](const Worker& worker) {
    quantize(worker, isa, x, k, m, k, activations, precision);
    worker.sync();
    linear(worker, isa, weight, activations, m, bias, wide.data(), ldo);
  });
  Product product;
  for (int64_t r = 0; r < m; r++) {
    const float* row = &wide[static_cast<size_t>(r * ldo)];
    product.out.insert(product.out.end(), row, row + n);
    for (int64_t i = n; i < ldo; i++) EXPECT(row[i] == untouched, "row %d was written past its end", int(r));
  }
  const auto* groups = activations.impl->groups.as<ActivationGroup>();
  product.groups.assign(groups, groups + m * group_stride(k));
  return product;
}

// What a kernel sees of x[r, k]: for weights in floating point x itself, else what quantising left of it.
double seen(const Product& product, const std::vector<float>& x, bool exact, int64_t cols, int64_t r,
            int64_t k) {
  if (exact) return x[static_cast<size_t>(r * cols + k)];
  const ActivationGroup& group = product.groups[static_cast<size_t>(r * group_stride(cols) + k / 32)];
  return static_cast<double>(group.scale) * group.codes[k % 32];
}

void check_product(const char* type, Isa isa, Shape shape, ThreadPool& pool) {
  const auto [m, n, k] = shape;
  const Tensor tensor = random_tensor(type, n, k, 11);
  const std::vector<float> x = random_floats(static_cast<size_t>(m * k), 12);
  const std::vector<float> bias = random_floats(static_cast<size_t>(n), 13);
  const Product got = multiply(pack(tensor.view, isa, pool), isa, pool, x.data(), m, bias.data());
  const bool exact = traits(tensor.view.dtype).block_values == 1;
  std::vector<float> w(static_cast<size_t>(k));
  for (int64_t o = 0; o < n; o++) {
    dequantize_row(tensor.view, o, w.data());
    for (int64_t r = 0; r < m; r++) {
      double want = bias[static_cast<size_t>(o)], size = std::fabs(want);
      for (int64_t i = 0; i < k; i++) {
        const double part = w[static_cast<size_t>(i)] * seen(got, x, exact, k, r, i);
        want += part;
        size += std::fabs(part);
      }
      const double tolerance = 3e-6 * (size + 1.0);
      const float have = got.out[static_cast<size_t>(r * n + o)];
      EXPECT(std::fabs(have - want) <= tolerance, "%s %s M %d N %d K %d: out[%d, %d] is %g, wanted %g", type,
             isa_name(isa), int(m), int(n), int(k), int(r), int(o), have, want);
    }
  }
}

void quantized_products() {
  ThreadPool pool(2);
  for (const Isa isa : isas()) {
    for (const char* type : kQuantizedTypes) {
      const int64_t block = traits(parse_dtype(type)).block_values;
      for (const Shape shape :
           {Shape{1, 1, block}, {7, 37, 3 * block}, {16, 48, 2 * block}, {5, 16, 5 * block}}) {
        check_product(type, isa, shape, pool);
      }
    }
  }
}

void float_products() {
  ThreadPool pool(2);
  for (const Isa isa : isas()) {
    for (const char* type : kFloatTypes) {
      for (const Shape shape : {Shape{1, 1, 1}, {3, 17, 33}, {15, 40, 64}, {8, 5, 7}}) {
        check_product(type, isa, shape, pool);
      }
    }
  }
}

std::vector<const char*> all_types() {
  std::vector<const char*> types(std::begin(kQuantizedTypes), std::end(kQuantizedTypes));
  types.insert(types.end(), std::begin(kFloatTypes), std::end(kFloatTypes));
  return types;
}

void a_row_does_not_depend_on_its_batch() {
  const int64_t m = 31, n = 50, k = 512;
  ThreadPool one(1), three(3);
  const std::vector<float> x = random_floats(static_cast<size_t>(m * k), 21);
  for (const Isa isa : isas()) {
    for (const char* type : all_types()) {
      const PackedMatrix weight = pack(random_tensor(type, n, k, 22).view, isa, one);
      const Product together = multiply(weight, isa, three, x.data(), m, nullptr);
      for (int64_t first = 0; first < m;) {  // pieces of 1, 2, 3 … rows
        const int64_t rows = std::min(first % 5 + 1, m - first);
        const Product piece = multiply(weight, isa, one, &x[static_cast<size_t>(first * k)], rows, nullptr);
        EXPECT(std::memcmp(piece.out.data(), &together.out[static_cast<size_t>(first * n)],
                           piece.out.size() * sizeof(float)) == 0,
               "%s %s: rows %d and on", type, isa_name(isa), int(first));
        first += rows;
      }
    }
  }
}

// int16 is some 250 times as close to the product with the activations as they were as int8 is.
void two_parts_are_nearly_exact() {
  const int64_t m = 29, n = 35, k = 256;
  ThreadPool pool(2);
  const std::vector<float> x = random_floats(static_cast<size_t>(m * k), 91);
  const std::vector<float> bias = random_floats(static_cast<size_t>(n), 92);
  const Tensor tensor = random_tensor("Q8_0", n, k, 93);
  const PackedMatrix weight = pack(tensor.view, best_isa(), pool);
  const Product want = multiply(weight, Isa::scalar, pool, x.data(), m, bias.data(), Precision::int16);
  std::vector<float> w(static_cast<size_t>(k));
  for (int64_t o = 0; o < n; o++) {
    dequantize_row(tensor.view, o, w.data());
    for (int64_t r = 0; r < m; r++) {
      double exact = bias[size_t(o)], size = 1.0;
      for (int64_t i = 0; i < k; i++) {
        exact += double(w[size_t(i)]) * x[size_t(r * k + i)];
        size += std::fabs(w[size_t(i)] * x[size_t(r * k + i)]);
      }
      EXPECT(std::fabs(want.out[size_t(r * n + o)] - exact) < 1e-5 * size, "out[%d, %d]", int(r), int(o));
    }
  }
  for (const Isa isa : isas()) {
    EXPECT(multiply(weight, isa, pool, x.data(), m, bias.data(), Precision::int16).out == want.out, "%s",
           isa_name(isa));
  }
  const float* last = &x[static_cast<size_t>((m - 1) * k)];
  const Product alone = multiply(weight, best_isa(), pool, last, 1, bias.data(), Precision::int16);
  EXPECT(std::equal(alone.out.begin(), alone.out.end(), want.out.end() - n), "a row alone differs");
}

void many_rows_go_in_passes() {  // more activations than the cache share of one pass
  const int64_t m = 200, n = 16, k = 4096;
  ThreadPool pool(1);
  const std::vector<float> x = random_floats(static_cast<size_t>(m * k), 31);
  for (const char* type : {"Q4_0", "F32"}) {
    const PackedMatrix weight = pack(random_tensor(type, n, k, 32).view, best_isa(), pool);
    const Product together = multiply(weight, best_isa(), pool, x.data(), m, nullptr);
    for (const int64_t r : {int64_t{0}, int64_t{97}, m - 1}) {
      const Product alone = multiply(weight, best_isa(), pool, &x[static_cast<size_t>(r * k)], 1, nullptr);
      EXPECT(std::equal(alone.out.begin(), alone.out.end(), &together.out[static_cast<size_t>(r * n)]),
             "%s row %d", type, int(r));
    }
  }
}

void instruction_sets_agree_to_the_bit() {
  const int64_t m = 6, n = 21, k = 768;
  ThreadPool pool(2);
  const std::vector<float> x = random_floats(static_cast<size_t>(m * k), 41);
  for (const char* type : all_types()) {
    const PackedMatrix weight = pack(random_tensor(type, n, k, 42).view, Isa::scalar, pool);
    const Product want = multiply(weight, Isa::scalar, pool, x.data(), m, nullptr);
    for (const Isa isa : isas()) {
      EXPECT(multiply(weight, isa, pool, x.data(), m, nullptr).out == want.out, "%s: %s and scalar", type,
             isa_name(isa));
    }
  }
}

// Weights and activations at their extremes, where 16-bit partial sums of products would overflow first.
void extremes_do_not_overflow() {
  ThreadPool pool(1);
  for (const char* type : kQuantizedTypes) {
    const int64_t k = 256, n = 16;
    Tensor tensor = random_tensor(type, n, k, 51);
    const TypeTraits size = traits(tensor.view.dtype);
    const uint16_t small = float_to_half(0.001f);
    for (int fill : {0x00, 0xff, 0x7f, 0x80}) {
      std::memset(tensor.bytes.data(), fill, tensor.bytes.size());
      for (size_t at = 0; at < tensor.bytes.size(); at += static_cast<size_t>(size.block_bytes)) {
        for (const int offset : half_offsets(type))
          std::memcpy(&tensor.bytes[at + size_t(offset)], &small, 2);
      }
      std::vector<float> x(static_cast<size_t>(k), -1.0f), w(static_cast<size_t>(k));
      const PackedMatrix weight = pack(tensor.view, Isa::scalar, pool);
      dequantize_row(tensor.view, 0, w.data());
      for (const Isa isa : isas()) {
        double want = 0.0, sum = 0.0;
        for (const float value : w) want -= value, sum += std::fabs(value);
        const float have = multiply(weight, isa, pool, x.data(), 1, nullptr).out[0];
        EXPECT(std::fabs(have - want) <= 1e-3 * sum + 1e-6, "%s %s fill %02x: %g, wanted %g", type,
               isa_name(isa), fill, have, want);
      }
    }
  }
}

void check_group(const ActivationGroup& group, const float* x, int count) {
  int32_t low = 0, high = 0;
  for (int i = 0; i < 32; i++) {
    (i < 16 ? low : high) += group.codes[i];
    const float value = i < count ? x[i] : 0.0f;
    EXPECT(std::fabs(value - group.scale * static_cast<float>(group.codes[i])) <= group.scale * 0.50001f,
           "value %d: %g became %d * %g", i, value, group.codes[i], group.scale);
  }
  const int32_t sums[] = {8 * (low + high), 16 * (low + high), 128 * (low + high), 32 * low, 32 * high};
  for (int i = 0; i < 5; i++) EXPECT(group.start[i] == kStart - sums[i], "start %d is off", i);
  EXPECT(group.sum == group.scale * static_cast<float>(low + high), "the scaled sum is off");
}

void activations_are_rounded_to_the_nearest_code() {
  ThreadPool pool(3);
  for (const Isa isa : isas()) {
    for (const int64_t cols : {1, 31, 32, 33, 48, 100}) {
      const int64_t rows = 5, groups = num_groups(cols);
      const std::vector<float> x = random_floats(static_cast<size_t>(rows * cols), 61);
      Activations out;
      out.reserve(rows, cols);
      pool.run([&](const Worker& worker) { quantize(worker, isa, x.data(), cols, rows, cols, out); });
      for (int64_t i = 0; i < rows * groups; i++) {
        const int64_t first = i % groups * 32;
        check_group(out.impl->groups.as<ActivationGroup>()[i / groups * group_stride(cols) + i % groups],
                    &x[static_cast<size_t>(i / groups * cols + first)],
                    int(std::min<int64_t>(32, cols - first)));
      }
    }
  }
}

void odd_activations_do_no_harm() {
  const float infinity = std::numeric_limits<float>::infinity();
  ThreadPool pool(1);
  for (const Isa isa : isas()) {
    for (const float odd : {0.0f, 1e-40f, 1e-30f, 3e38f, infinity, std::nanf("")}) {
      std::vector<float> x(32, 1e-41f);
      x[5] = odd;
      Activations out;
      out.reserve(1, 32);
      pool.run([&](const Worker& worker) { quantize(worker, isa, x.data(), 32, 1, 32, out); });
      const ActivationGroup& group = *out.impl->groups.as<ActivationGroup>();
      EXPECT(*std::min_element(group.codes, group.codes + 32) >= -127, "code out of range for %g", odd);
      if (odd < kSmallestActivation)
        EXPECT(group.scale == 0.0f, "%g must vanish, scale is %g", odd, group.scale);
      if (odd == 1e-30f || odd == 3e38f) EXPECT(group.codes[5] == 127, "%g became %d", odd, group.codes[5]);
    }
  }
}

void tiny_and_huge_scales_keep_their_precision() {  // Q4_K's products leave the range of fp16
  ThreadPool pool(1);
  Tensor tensor = random_tensor("Q4_K", 16, 256, 71);
  for (const uint16_t half : {uint16_t{0x0001}, uint16_t{0x7bff}}) {
    for (size_t at = 0; at < tensor.bytes.size(); at += 144) {
      std::memcpy(&tensor.bytes[at], &half, 2);
      std::memset(&tensor.bytes[at + 2], 0, 2);
    }
    const std::vector<float> x(256, 1.0f);
    std::vector<float> w(256);
    const Product got = multiply(pack(tensor.view, best_isa(), pool), best_isa(), pool, x.data(), 1, nullptr);
    for (int64_t n = 0; n < 16; n++) {
      dequantize_row(tensor.view, n, w.data());
      double want = 0.0;
      for (const float value : w) want += value;
      EXPECT(std::fabs(got.out[size_t(n)] - want) <= 1e-3 * std::fabs(want), "%g, wanted %g",
             got.out[size_t(n)], want);
    }
  }
}

void wrong_sizes_are_refused() {
  ThreadPool pool(1);
  const Tensor tensor = random_tensor("Q8_0", 16, 64, 81);
  const PackedMatrix weight = pack(tensor.view, best_isa(), pool);
  Activations activations;
  activations.reserve(1, 32);
  const std::vector<float> x(64);
  std::vector<float> out(16);
  const auto quantized = [&](int64_t cols) {
    pool.run(
        [&](const Worker& worker) { quantize(worker, best_isa(), x.data(), cols, 1, cols, activations); });
  };
  expect_invalid([&] { quantized(64); }, "call reserve first");
  quantized(32);
  expect_invalid(
      [&] {
        pool.run([&](const Worker& worker) {
          linear(worker, best_isa(), weight, activations, 1, nullptr, out.data(), 16);
        });
      },
      "32 columns");
  expect_invalid([&] { pack({DType::q4_k, 1, 64, tensor.bytes.data()}, best_isa(), pool); },
                 "multiple of 256");
}

}  // namespace

int main(int argc, char** argv) {
  return run_case(
      {{"quantized_products", quantized_products},
       {"float_products", float_products},
       {"a_row_does_not_depend_on_its_batch", a_row_does_not_depend_on_its_batch},
       {"two_parts_are_nearly_exact", two_parts_are_nearly_exact},
       {"many_rows_go_in_passes", many_rows_go_in_passes},
       {"instruction_sets_agree_to_the_bit", instruction_sets_agree_to_the_bit},
       {"extremes_do_not_overflow", extremes_do_not_overflow},
       {"activations_are_rounded_to_the_nearest_code", activations_are_rounded_to_the_nearest_code},
       {"odd_activations_do_no_harm", odd_activations_do_no_harm},
       {"tiny_and_huge_scales_keep_their_precision", tiny_and_huge_scales_keep_their_precision},
       {"wrong_sizes_are_refused", wrong_sizes_are_refused}},
      argc, argv);
}
