// Runs CUDA C++ on the CPU: the same .cu source, compiled by g++, under AddressSanitizer and UBSan.
//
// What it gives: thread and block indices, static and dynamic shared memory, __syncthreads, atomics,
// half with correct rounding, and the wmma fragments of 16 x 16 x 16. What it does not give: warp
// shuffles, streams, concurrency. Blocks run one after the other; the threads of a block are fibers
// that change over at barriers. Their order is chosen (`vs_host_order`), so that a missing barrier
// shows as a result that depends on it. A barrier that some threads of a block do not reach, or that
// they reach in different lines, ends the program: on a GPU it would be undefined.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static  // blocks run one after the other, so that one copy serves all
#define __restrict__ __restrict

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace host {

constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  dim3 thread;
  int line = 0;  // of the barrier at which it waits
  bool done = false;
  void* fake = nullptr;  // AddressSanitizer's stack of this fiber
};

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* current = nullptr;
  ucontext_t main{};
  dim3 block, block_size, grid_size;
  std::function<void()> body;
  std::unique_ptr<unsigned char[]> dynamic;
  const void* main_stack = nullptr;
  size_t main_bytes = 0;
  int order = 0;
  unsigned random = 1;
};

inline Machine& machine() {
  static Machine one;
  return one;
}

inline void leave(Fiber* fiber, bool last) {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &fiber->fake, m.main_stack, m.main_bytes);
#endif
  (void)last;
  swapcontext(&fiber->context, &m.main);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber->fake, &m.main_stack, &m.main_bytes);
#endif
}

inline void start() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.main_stack, &m.main_bytes);
#endif
  Fiber* fiber = m.current;
  m.body();
  fiber->done = true;
  leave(fiber, true);
}

inline void enter(Fiber* fiber) {
  Machine& m = machine();
  m.current = fiber;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber->stack.get(), kStackBytes);
#endif
  swapcontext(&m.main, &fiber->context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  m.current = nullptr;
}

inline void barrier(int line) {
  Fiber* fiber = machine().current;
  fiber->line = line;
  leave(fiber, false);
}

inline void run_block(size_t threads) {
  Machine& m = machine();
  std::vector<Fiber*> order;
  for (size_t t = 0; t < threads; ++t) {
    Fiber* fiber = m.fibers[t].get();
    fiber->done = false;
    fiber->line = 0;
    fiber->fake = nullptr;
    const unsigned i = static_cast<unsigned>(t), x = m.block_size.x, y = m.block_size.y;
    fiber->thread = dim3(i % x, i / x % y, i / (x * y));
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kStackBytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, start, 0);
    order.push_back(fiber);
  }
  for (bool left = true; left;) {
    if (m.order == 1) std::reverse(order.begin(), order.end());
    if (m.order == 2) {
      for (size_t i = threads; i > 1; --i) {
        m.random = m.random * 1664525u + 1013904223u;
        std::swap(order[i - 1], order[(m.random >> 8) % i]);
      }
    }
    for (Fiber* fiber : order) enter(fiber);
    left = !order[0]->done;
    for (Fiber* fiber : order) {
      if (fiber->done != order[0]->done || (left && fiber->line != order[0]->line)) {
        std::fprintf(stderr, "barrier: the threads of a block do not meet (lines %d and %d)\n",
                     order[0]->done ? -1 : order[0]->line, fiber->done ? -1 : fiber->line);
        std::abort();
      }
    }
  }
}

template <class Body>
void launch(dim3 grid, dim3 block, size_t shared_bytes, Body body) {
  Machine& m = machine();
  const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
  if (threads < 1 || threads > 1024 || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y ||
      !grid.z || shared_bytes > 48 * 1024) {
    std::fprintf(stderr, "launch: a GPU would refuse it\n");
    std::abort();
  }
  while (m.fibers.size() < threads) m.fibers.push_back(std::make_unique<Fiber>());
  m.block_size = block;
  m.grid_size = grid;
  m.body = body;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        m.block = dim3(x, y, z);
        m.dynamic.reset(new unsigned char[shared_bytes + 1]);  // its own, so that bounds are seen
        std::memset(m.dynamic.get(), 0xff, shared_bytes + 1);  // NaN, where nobody wrote
        run_block(threads);
      }
  m.body = nullptr;
}

template <class T>
T exchange(T* at, T value) {
  T old = *at;
  *at = value;
  return old;
}

}  // namespace host

#define threadIdx (host::machine().current->thread)
#define blockIdx (host::machine().block)
#define blockDim (host::machine().block_size)
#define gridDim (host::machine().grid_size)
#define __syncthreads() host::barrier(__LINE__)
#define __syncwarp() ((void)0)
#define LAUNCH(kernel, grid, block, shared, stream, ...)                          \
  do {                                                                            \
    (void)(stream);                                                               \
    host::launch(grid, block, shared, [&] { kernel(__VA_ARGS__); });              \
  } while (0)
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(host::machine().dynamic.get())

// Fibers never run at the same time: an atomic operation is a plain one.
template <class T>
T atomicAdd(T* at, T value) { return host::exchange(at, static_cast<T>(*at + value)); }
template <class T>
T atomicMax(T* at, T value) { return host::exchange(at, std::max(*at, value)); }
template <class T>
T atomicCAS(T* at, T expected, T value) { return host::exchange(at, *at == expected ? value : *at); }

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// IEEE 754 binary16. Trivial, so that it may lie in shared memory.
struct __half {
  uint16_t bits;
};
using half = __half;

inline float __half2float(__half h) {
  const uint32_t sign = (h.bits & 0x8000u) << 16, exponent = h.bits >> 10 & 31, rest = h.bits & 1023u;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | rest << 13);
  if (exponent == 0) {
    const float small = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -small : small;
  }
  return __uint_as_float(sign | (exponent + 112) << 23 | rest << 13);
}

inline __half __float2half(float value) {  // to nearest, ties to even
  const uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
  const uint32_t size = bits & 0x7fffffffu;
  uint32_t out;
  if (size > 0x7f800000u) {
    out = 0x7fff;
  } else if (size >= 0x477ff000u) {  // 65520 and more round to infinity
    out = 0x7c00;
  } else if (size < 0x38800000u) {  // below the smallest normal number: in steps of 2^-24
    out = static_cast<uint32_t>(std::nearbyint(__uint_as_float(size) * 0x1p24f));
  } else {
    out = (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13;
  }
  return __half{static_cast<uint16_t>(sign | out)};
}

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
enum layout_t { mem_row_major };

// A lane holds all of a factor, and of a sum its eighth of a half row: which elements a lane holds is
// not defined on a GPU either.
template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  T x[256];
};
template <int M, int N, int K, class T>
struct fragment<accumulator, M, N, K, T, void> {
  static constexpr int num_elements = 8;
  T x[8];
};

inline int lane() {
  const dim3 t = threadIdx, size = blockDim;
  return static_cast<int>((t.x + size.x * (t.y + size.y * t.z)) % 32);
}

template <int M, int N, int K, class T>
void fill_fragment(fragment<accumulator, M, N, K, T>& c, T value) {
  std::fill(c.x, c.x + 8, value);
}

template <class Use, int M, int N, int K, class T>
void load_matrix_sync(fragment<Use, M, N, K, T, row_major>& f, const T* from, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(from) % 32 || stride % 8) {
    std::fprintf(stderr, "wmma: a matrix must be aligned to 32 bytes, its rows to 16\n");
    std::abort();
  }
  for (int i = 0; i < 256; ++i) f.x[i] = from[(i / 16) * stride + i % 16];
}

template <class A, class B, class C>
void mma_sync(C& d, const A& a, const B& b, const C& c) {
  const int row = lane() / 2, first = lane() % 2 * 8;
  for (int i = 0; i < 8; ++i) {
    float sum = c.x[i];
    for (int k = 0; k < 16; ++k)
      sum += __half2float(a.x[row * 16 + k]) * __half2float(b.x[k * 16 + first + i]);
    d.x[i] = sum;
  }
}

template <int M, int N, int K, class T>
void store_matrix_sync(T* to, const fragment<accumulator, M, N, K, T>& c, unsigned stride, layout_t) {
  const int row = lane() / 2, first = lane() % 2 * 8;
  for (int i = 0; i < 8; ++i) to[static_cast<unsigned>(row) * stride + first + i] = c.x[i];
}

}  // namespace nvcuda::wmma

// The device's memory is the host's.
using cudaStream_t = void*;
