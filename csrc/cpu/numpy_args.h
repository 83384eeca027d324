// numpy_args.h: numpy arrays as checked C++ arguments. Nothing is converted or copied: another type, rank or
// memory order is the caller's mistake and raises ValueError with a sentence.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/model_weights.h"

namespace picert::cpu {

template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

inline std::string type_text(const pybind11::object& object) {
  if (!pybind11::isinstance<pybind11::array>(object))
    return pybind11::str(pybind11::type::of(object).attr("__name__"));
  const std::string dtype = pybind11::str(object.attr("dtype"));
  const bool contiguous = pybind11::cast<bool>(object.attr("flags").attr("c_contiguous"));
  return "an array of " + dtype + (contiguous ? "" : ", not contiguous");
}

// `object` as it is, if it is a C-contiguous array of T with `rank` dimensions.
template <typename T>
Array<T> array_arg(const pybind11::object& object, const char* name, int64_t rank) {
  const std::string wanted = pybind11::str(pybind11::dtype::of<T>());
  PICERT_CHECK(pybind11::isinstance<Array<T>>(object), name, " is ", type_text(object),
               ", must be a contiguous array of ", wanted);
  auto array = pybind11::reinterpret_borrow<Array<T>>(object);
  PICERT_CHECK(array.ndim() == rank, name, " has ", array.ndim(), " dimensions, must have ", rank);
  return array;
}

// The same with given sizes.
template <typename T>
Array<T> sized_array_arg(const pybind11::object& object, const char* name,
                         const std::vector<int64_t>& shape) {
  Array<T> array = array_arg<T>(object, name, static_cast<int64_t>(shape.size()));
  for (size_t i = 0; i < shape.size(); i++) {
    PICERT_CHECK(array.shape(static_cast<pybind11::ssize_t>(i)) == shape[i], name, " has ",
                 array.shape(static_cast<pybind11::ssize_t>(i)), " entries in dimension ", i, ", must have ",
                 shape[i]);
  }
  return array;
}

// (dtype as GGUF spells it, shape, flat uint8 array): the array must outlive the result.
inline RawTensor raw_tensor_arg(const std::string& name, const std::string& dtype,
                                const std::vector<int64_t>& shape, const pybind11::object& data) {
  const Array<uint8_t> bytes = array_arg<uint8_t>(data, name.c_str(), 1);
  return {parse_dtype(dtype), shape, bytes.data(), static_cast<size_t>(bytes.size())};
}

}  // namespace picert::cpu
