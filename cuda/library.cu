// What the library says of itself.
//
// Build:   make -C cuda library, or make -C cuda host
#include "common.cuh"

// 1 where the kernels run on a CUDA device, 0 where they run on the CPU.
EXPORT int vitals_device() {
#ifdef __CUDACC__
  return 1;
#else
  return 0;
#endif
}

#ifndef __CUDACC__
// The order of a block's threads between barriers: 0 ascending, 1 turned round each time, 2 random.
EXPORT void vitals_host_order(int order) { host::machine().order = order; }

// Rounds to half and back, so that a check can compare the host's half with another one.
EXPORT void vitals_host_half(const float* from, int count, float* to) {
  for (int i = 0; i < count; ++i) to[i] = __half2float(__float2half(from[i]));
}
#endif
