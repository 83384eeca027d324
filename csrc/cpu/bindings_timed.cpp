// bindings_timed.cpp: the operations of a step, timed, for bench/bench_kernels.py. Each does what a decoder
// does, with the same functions and the same sharing among the workers, and returns its result to be checked.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "cpu/activations.h"
#include "cpu/attention_args.h"
#include "cpu/elementwise.h"
#include "cpu/numpy_args.h"

namespace py = pybind11;

namespace picert::cpu {

void bind_timed(py::module_& module);

namespace {

// "wall": what a user waits. "thread": processor time of each worker, for machines on which others work too.
bool is_thread_clock(const std::string& name) {
  PICERT_CHECK(name == "wall" || name == "thread", "clock is '", name, "': use wall or thread");
  return name == "thread";
}

double now_s(bool of_thread) {
  timespec time;
  clock_gettime(of_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// How an operation is run: a team, and passes of which each is timed.
struct Timing {
  Timing(int num_threads, const std::string& isa_text, const std::string& clock)
      : isa(parse_isa(isa_text)), of_thread(is_thread_clock(clock)), pool(num_threads) {}

  // Seconds of each pass of `body(worker, pass)`: of the worker who took longest. All begin together.
  template <typename Body>
  std::vector<double> run(int64_t passes, const Body& body) {
    PICERT_CHECK(passes >= 1, "passes is ", passes, ", must be positive");
    const auto size = static_cast<size_t>(pool.size());
    std::vector<double> spent(static_cast<size_t>(passes) * size);
    pool.run([&](const Worker& worker) {
      for (int64_t pass = 0; pass < passes; pass++) {
        worker.sync();
        const double begun = now_s(of_thread);
        body(worker, pass);
        spent[static_cast<size_t>(pass) * size + static_cast<size_t>(worker.rank)] = now_s(of_thread) - begun;
      }
    });
    std::vector<double> longest;
    for (auto of_pass = spent.begin(); of_pass != spent.end(); of_pass += pool.size()) {
      longest.push_back(*std::max_element(of_pass, of_pass + pool.size()));
    }
    return longest;
  }

  const Isa isa;
  const bool of_thread;
  ThreadPool pool;
};

using Timed = std::pair<Array<float>, std::vector<double>>;  // result, seconds of each pass

Array<float> like(const Array<float>& array) {
  return Array<float>(std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
}

// What int8 activations stand for, [rows, cols].
Array<float> values_of(const Activations& x, int64_t rows, int64_t cols) {
  Array<float> out({rows, cols});
  for (int64_t r = 0; r < rows; r++) {
    const auto* groups = x.impl->groups.as<ActivationGroup>() + r * group_stride(cols);
    for (int64_t k = 0; k < cols; k++) {
      const ActivationGroup& group = groups[k / kTileInputs];
      *out.mutable_data(r, k) = group.scale * static_cast<float>(group.codes[k % kTileInputs]);
    }
  }
  return out;
}

// One linear layer in so many copies that a pass over them finds none in the caches.
class TimedLinear {
 public:
  TimedLinear(const std::string& dtype, const std::vector<int64_t>& shape, const py::object& data,
              int num_copies, int num_threads, const std::string& isa, const std::string& clock)
      : timing_(num_threads, isa, clock) {
    PICERT_CHECK(num_copies >= 1, "num_copies is ", num_copies, ", must be positive");
    const TensorView weight = view_of("data", raw_tensor_arg("data", dtype, shape, data));
    for (int i = 0; i < num_copies; i++) copies_.push_back(pack(weight, timing_.isa, timing_.pool));
  }

  size_t bytes() const { return copies_[0].bytes(); }

  // x[M, K] @ weight^T; a pass goes over all copies, and its seconds are those of one of them. `two_parts`:
  // as the logits are computed.
  Timed run(const py::object& x, bool two_parts, int64_t passes) {
    const int64_t outputs = copies_[0].outputs(), inputs = copies_[0].inputs();
    const auto input = array_arg<float>(x, "x", 2);
    const int64_t rows = input.shape(0);
    PICERT_CHECK(input.shape(1) == inputs, "x has ", input.shape(1), " columns, the weight ", inputs);
    Array<float> out({rows, outputs});
    const float* from = input.data();
    float* to = out.mutable_data();
    const Precision precision = two_parts ? Precision::int16 : Precision::int8;
    const py::gil_scoped_release release;
    Activations activations;
    activations.reserve(rows, inputs, precision);
    timing_.pool.run([&](const Worker& worker) {
      quantize(worker, timing_.isa, from, inputs, rows, inputs, activations, precision);
    });
    std::vector<double> seconds = timing_.run(passes, [&](const Worker& worker, int64_t) {
      for (const PackedMatrix& copy : copies_) {
        linear(worker, timing_.isa, copy, activations, rows, nullptr, to, outputs);
      }
    });
    for (double& of_pass : seconds) of_pass /= static_cast<double>(copies_.size());
    return {out, seconds};
  }

 private:
  Timing timing_;
  std::vector<PackedMatrix> copies_;
};

// The norm before a linear layer, and its result in int8.
Timed time_norm_quantize(const py::object& x, const py::object& weight, float eps, int64_t passes,
                         int num_threads, const std::string& isa, const std::string& clock) {
  const auto input = array_arg<float>(x, "x", 2);
  const int64_t rows = input.shape(0), cols = input.shape(1);
  const auto factors = sized_array_arg<float>(weight, "weight", {cols});
  const float *from = input.data(), *by = factors.data();
  Timing timing(num_threads, isa, clock);
  const auto norm = elementwise(timing.isa).rms_norm;
  std::vector<float> normed(static_cast<size_t>(rows * cols));
  Activations out;
  out.reserve(rows, cols);
  const auto body = [&](const Worker& worker, int64_t) {
    const auto [begin, end] = worker.share(rows);
    for (int64_t i = begin; i < end; i++) norm(from + i * cols, by, eps, cols, normed.data() + i * cols);
    quantize(worker, timing.isa, normed.data(), cols, rows, cols, out);
  };
  std::vector<double> seconds;
  {
    const py::gil_scoped_release release;
    seconds = timing.run(passes, body);
  }
  return {values_of(out, rows, cols), seconds};
}

// The activation of a feed-forward part, and its result in int8.
Timed time_silu_quantize(const py::object& gate, const py::object& up, int64_t passes, int num_threads,
                         const std::string& isa, const std::string& clock) {
  const auto gates = array_arg<float>(gate, "gate", 2);
  const int64_t rows = gates.shape(0), cols = gates.shape(1);
  const auto ups = sized_array_arg<float>(up, "up", {rows, cols});
  const float *left = gates.data(), *right = ups.data();
  Timing timing(num_threads, isa, clock);
  const auto silu_mul = elementwise(timing.isa).silu_mul;
  std::vector<float> products(static_cast<size_t>(rows * cols));
  Activations out;
  out.reserve(rows, cols);
  const auto body = [&](const Worker& worker, int64_t) {
    const auto [begin, end] = worker.share(rows);
    for (int64_t i = begin; i < end; i++) {
      silu_mul(left + i * cols, right + i * cols, cols, products.data() + i * cols);
    }
    quantize(worker, timing.isa, products.data(), cols, rows, cols, out);
  };
  std::vector<double> seconds;
  {
    const py::gil_scoped_release release;
    seconds = timing.run(passes, body);
  }
  return {values_of(out, rows, cols), seconds};
}

// One decoder layer's keys turned by their angles and stored with their values, fp16, in the slots 0, 1, …;
// the keys [T, G, D] after the first pass (each turns them further).
Timed time_rope_store(const py::object& k, const py::object& v, const py::object& cos, const py::object& sin,
                      int64_t block_size, int64_t passes, int num_threads, const std::string& isa,
                      const std::string& clock) {
  const auto keys = array_arg<float>(k, "k", 3);
  const int64_t tokens = keys.shape(0), heads = keys.shape(1), dim = keys.shape(2), half = dim / 2;
  PICERT_CHECK(tokens >= 1 && heads >= 1 && dim >= 2 && dim == 2 * half && dim <= kMaxHeadDim, "k is [",
               tokens, ", ", heads, ", ", dim, "]: sizes must be positive, the last even and at most ",
               kMaxHeadDim);
  const auto values = sized_array_arg<float>(v, "v", {tokens, heads, dim});
  const auto cosines = sized_array_arg<float>(cos, "cos", {tokens, half});
  const auto sines = sized_array_arg<float>(sin, "sin", {tokens, half});
  const AttentionShape shape{heads, heads, dim, block_size, 0, 1.0f, 0.0f, KvFormat::fp16};
  Timing timing(num_threads, isa, clock);
  const auto rope = elementwise(timing.isa).rope;
  const auto store = attention_kernels(timing.isa).store;
  const float *c = cosines.data(), *s = sines.data(), *stored = values.data();
  Array<float> out = like(keys);
  std::vector<float> turned(keys.data(), keys.data() + keys.size());
  std::vector<double> seconds;
  {
    const py::gil_scoped_release release;
    KvCache cache(shape, 1, (tokens + block_size - 1) / std::max<int64_t>(block_size, 1));
    const KvPages pages = cache.layer(0);
    const auto body = [&](const Worker& worker, int64_t) {
      const auto [begin, end] = worker.share(tokens * heads);
      for (int64_t i = begin; i < end; i++) {
        const int64_t token = i / heads;
        float* row = turned.data() + i * dim;
        rope(c + token * half, s + token * half, half, row);
        store(shape, pages, token, i % heads, row, stored + i * dim);
      }
    };
    timing.run(1, body);
    std::copy(turned.begin(), turned.end(), out.mutable_data());
    seconds = timing.run(passes, body);
  }
  return {out, seconds};
}

// Attention of a step in `num_layers` layers with pages of their own; a pass goes over all of them, and its
// seconds are those of one.
Timed time_attention(const py::object& q, const py::object& keys, const py::object& values,
                     const py::object& query_start, const py::object& context_lens,
                     const py::object& block_tables, float scale, const std::string& kv_format,
                     int64_t num_layers, int64_t passes, int num_threads, const std::string& isa,
                     const std::string& clock) {
  PICERT_CHECK(num_layers >= 1 && passes >= 1, "num_layers is ", num_layers, " and passes ", passes,
               ": both must be positive");
  AttentionArgs a = attention_args(q, keys, values, query_start, context_lens, block_tables);
  a.shape.scale = scale;
  a.shape.format = parse_kv_format(kv_format);
  Timing timing(num_threads, isa, clock);
  const AttentionKernels& kernels = attention_kernels(timing.isa);
  Array<float> out = like(a.q);
  const float* from = a.q.data();
  float* to = out.mutable_data();
  const py::gil_scoped_release release;
  KvCache cache(a.shape, num_layers, a.keys.shape(0));
  for (int64_t i = 0; i < num_layers; i++) fill_layer(kernels, a, cache.layer(i));
  AttentionPlan plan;
  plan.build(a.shape, a.batch, num_threads);
  AlignedBuffer partials(static_cast<size_t>(plan.partials_size()) * sizeof(float));
  const int64_t stride = scratch_floats(a.shape);
  AlignedBuffer scratch(static_cast<size_t>(stride * num_threads) * sizeof(float));
  std::vector<std::atomic<int64_t>> next(static_cast<size_t>(passes * num_layers));
  std::vector<double> seconds = timing.run(passes, [&](const Worker& worker, int64_t pass) {
    for (int64_t i = 0; i < num_layers; i++) {
      plan.run(worker, kernels, a.shape, cache.layer(i), from, scratch.as<float>() + worker.rank * stride,
               partials.as<float>(), next[static_cast<size_t>(pass * num_layers + i)], to);
      worker.sync();
    }
  });
  for (double& of_pass : seconds) of_pass /= static_cast<double>(num_layers);
  return {out, seconds};
}

// Seconds of a barrier, of a thousand in a row.
std::vector<double> time_barrier(int64_t passes, int num_threads) {
  constexpr int kBarriers = 1000;
  const py::gil_scoped_release release;
  Timing timing(num_threads, "", "wall");
  std::vector<double> seconds = timing.run(passes, [](const Worker& worker, int64_t) {
    for (int i = 0; i < kBarriers; i++) worker.sync();
  });
  for (double& of_pass : seconds) of_pass /= kBarriers;
  return seconds;
}

}  // namespace

void bind_timed(py::module_& module) {
  py::class_<TimedLinear>(module, "TimedLinear", "A linear layer whose passes are timed.")
      .def(py::init<const std::string&, const std::vector<int64_t>&, const py::object&, int, int,
                    const std::string&, const std::string&>(),
           py::arg("dtype"), py::arg("shape"), py::arg("data"), py::arg("num_copies"), py::arg("num_threads"),
           py::arg("isa"), py::arg("clock"))
      .def_property_readonly("bytes", &TimedLinear::bytes, "Of one copy, packed.")
      .def("run", &TimedLinear::run, py::arg("x"), py::arg("two_parts"), py::arg("passes"));
  module.def("time_norm_quantize", &time_norm_quantize, py::arg("x"), py::arg("weight"), py::arg("eps"),
             py::arg("passes"), py::arg("num_threads"), py::arg("isa"), py::arg("clock"));
  module.def("time_silu_quantize", &time_silu_quantize, py::arg("gate"), py::arg("up"), py::arg("passes"),
             py::arg("num_threads"), py::arg("isa"), py::arg("clock"));
  module.def("time_rope_store", &time_rope_store, py::arg("k"), py::arg("v"), py::arg("cos"), py::arg("sin"),
             py::arg("block_size"), py::arg("passes"), py::arg("num_threads"), py::arg("isa"),
             py::arg("clock"));
  module.def("time_attention", &time_attention, py::arg("q"), py::arg("k_cache"), py::arg("v_cache"),
             py::arg("query_start"), py::arg("context_lens"), py::arg("block_tables"), py::arg("scale"),
             py::arg("kv_format"), py::arg("num_layers"), py::arg("passes"), py::arg("num_threads"),
             py::arg("isa"), py::arg("clock"));
  module.def("time_barrier", &time_barrier, py::arg("passes"), py::arg("num_threads"));
}

}  // namespace picert::cpu
