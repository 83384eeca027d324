// check.h: argument checks that turn a caller's mistake into an exception with a sentence.
#pragma once

#include <sstream>
#include <stdexcept>

namespace picert {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

}  // namespace picert

// Throws std::invalid_argument (ValueError in Python) built from the rest of its arguments unless `condition`
// holds.
#define PICERT_CHECK(condition, ...)               \
  do {                                             \
    if (!(condition)) ::picert::fail(__VA_ARGS__); \
  } while (0)
