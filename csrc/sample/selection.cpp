// selection.cpp: partial selection on shrinking sets.
#include "sample/selection.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

namespace picert::sample {
namespace {

struct Entry {
  float weight;
  int32_t id;
};

bool is_heavier(const Entry& a, const Entry& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}

// Bins of weights in (0, 1], the heaviest first: 32 an octave, by the leading bits of the fp32 number.
constexpr uint32_t kBitsOfOne = 0x3F800000, kBinShift = 18;
constexpr size_t kNumBins = (kBitsOfOne >> kBinShift) + 1;

size_t bin_of(float weight) {
  uint32_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  return (kBitsOfOne - std::min(bits, kBitsOfOne)) >> kBinShift;
}

// The last entry, heaviest first, that is needed to reach `wanted`. Each round halves what it may be in.
Entry border_of_nucleus(std::vector<Entry>& entries, double wanted) {
  auto begin = entries.begin(), end = entries.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, is_heavier);
    double heavier_half = 0.0;
    for (auto it = begin; it != middle; ++it) heavier_half += static_cast<double>(it->weight);
    if (heavier_half >= wanted) {
      end = middle;
    } else {
      wanted -= heavier_half;
      begin = middle;
    }
  }
  return *begin;
}

}  // namespace

int64_t Row::num_blocks() const { return (n + kBlock - 1) / kBlock; }

// Every token of a block is written, and stays if the next one does not take its place: a branch for each
// would be mispredicted too often.
void gather(const Row& row, float floor, Candidates& out) {
  size_t count = 0;
  for (int64_t block = 0; block < row.num_blocks(); block++) {
    if (row.block_max[block] < floor) continue;
    const int64_t end = std::min(row.n, (block + 1) * kBlock);
    if (out.ids.size() < count + kBlock) out.resize(2 * (count + kBlock));
    for (int64_t i = block * kBlock; i < end; i++) {
      out.ids[count] = static_cast<int32_t>(i);
      out.values[count] = row.x[i];
      count += row.x[i] >= floor ? 1 : 0;
    }
  }
  out.resize(count);
}

// Each of the k blocks with the largest maxima has a logit that is at least the k-th of those maxima, so no
// smaller one is among the k largest.
float kth_largest(const Row& row, int64_t k, Candidates& scratch) {
  float floor = -std::numeric_limits<float>::infinity();
  if (k <= row.num_blocks()) {
    scratch.values.assign(row.block_max, row.block_max + row.num_blocks());
    std::nth_element(scratch.values.begin(), scratch.values.begin() + (k - 1), scratch.values.end(),
                     std::greater<float>());
    floor = scratch.values[static_cast<size_t>(k - 1)];
  }
  gather(row, floor, scratch);
  std::nth_element(scratch.values.begin(), scratch.values.begin() + (k - 1), scratch.values.end(),
                   std::greater<float>());
  return scratch.values[static_cast<size_t>(k - 1)];
}

void keep_nucleus(Candidates& candidates, double wanted) {
  std::vector<double> bin_weight(kNumBins, 0.0);
  for (const float weight : candidates.values) bin_weight[bin_of(weight)] += static_cast<double>(weight);
  size_t bin = 0;
  while (bin + 1 < kNumBins && bin_weight[bin] < wanted) wanted -= bin_weight[bin++];
  std::vector<Entry> entries;  // of the bin that holds the border
  for (size_t i = 0; i < candidates.ids.size(); i++) {
    const Entry entry = {candidates.values[i], candidates.ids[i]};
    if (bin_of(entry.weight) == bin) entries.push_back(entry);
  }
  if (entries.empty()) return;
  const Entry border = border_of_nucleus(entries, wanted);
  size_t kept = 0;
  for (size_t i = 0; i < candidates.ids.size(); i++) {
    const Entry entry = {candidates.values[i], candidates.ids[i]};
    candidates.ids[kept] = entry.id;
    candidates.values[kept] = entry.weight;
    kept += is_heavier(border, entry) ? 0 : 1;
  }
  candidates.resize(kept);
}

int64_t find_place(const float* weights, int64_t n, double target) {
  double sum = 0.0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; i++) {
    if (weights[i] == 0.0f) continue;
    sum += static_cast<double>(weights[i]);
    last = i;
    if (sum > target) break;
  }
  return last;
}

}  // namespace picert::sample
