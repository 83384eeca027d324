// philox.h: the random numbers of a request: draw n of a seed is a function of the two and of nothing else.
//
// Counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so there is no state
// to keep across preemption or to hand over. The stream is that of numpy's
// Generator(Philox(key=seed)).random().
#pragma once

#include <cstdint>

namespace picert::sample {

// Draw number `index` of the stream of `seed`, in [0, 1), a multiple of 2^-53.
double uniform(uint64_t seed, uint64_t index);

}  // namespace picert::sample
