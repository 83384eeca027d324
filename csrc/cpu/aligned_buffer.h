// aligned_buffer.h: uninitialised memory for kernels: aligned to cache lines, on huge pages where it is
// large.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace picert::cpu {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // Throws std::bad_alloc. The contents are whatever the memory held.
  explicit AlignedBuffer(size_t bytes) : bytes_(bytes) {
    const size_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    data_.reset(std::aligned_alloc(alignment, rounded > 0 ? rounded : alignment));
    if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    // Only whole huge pages: asking for the tail as well would make up to 2 MiB resident that nobody uses.
    const size_t whole = bytes / kHugePage * kHugePage;
    if (whole > 0) madvise(data_.get(), whole, MADV_HUGEPAGE);
#endif
  }

  template <typename T>
  T* as() {
    return static_cast<T*>(data_.get());
  }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data_.get());
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kCacheLine = 64;
  static constexpr size_t kHugePage = size_t{2} << 20;

  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_ = 0;
};

}  // namespace picert::cpu
