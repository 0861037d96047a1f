// What the kernels share: one source for nvcc and, through host/cuda_host.h, for g++.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>
#define LAUNCH(kernel, grid, block, shared, stream, ...) \
  kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name)                               \
  extern __shared__ __align__(128) unsigned char name##_bytes[]; \
  type* name = reinterpret_cast<type*>(name##_bytes)
#else
#include "host/cuda_host.h"
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace vitals {

constexpr int kBadArgument = -1;
using i64 = long long;
using u64 = unsigned long long;

inline int launched() {
#ifdef __CUDACC__
  return static_cast<int>(cudaGetLastError());
#else
  return 0;
#endif
}

template <class T>
T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// Largest integer not above a / b, also for a below zero; b is positive.
__host__ __device__ __forceinline__ i64 floor_div(i64 a, i64 b) {
  const i64 q = a / b;
  return a % b < 0 ? q - 1 : q;
}

#ifdef VITALSTREAM_MAIN
inline void must(int code, const char* what) {
  if (code != 0) {
    std::fprintf(stderr, "%s: error %d\n", what, code);
    std::exit(1);
  }
}

// Memory on the device, for the checks in each file's main.
template <class T>
class Device {
 public:
  explicit Device(const std::vector<T>& from) : bytes_(from.size() * sizeof(T)), size_(from.size()) {
#ifdef __CUDACC__
    must(cudaMalloc(&data_, bytes_ + 1), "cudaMalloc");
    must(cudaMemcpy(data_, from.data(), bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
#else
    data_ = static_cast<T*>(std::malloc(bytes_ ? bytes_ : 1));
    if (bytes_) std::memcpy(data_, from.data(), bytes_);
#endif
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() {
#ifdef __CUDACC__
    cudaFree(data_);
#else
    std::free(data_);
#endif
  }
  T* get() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> to(size_);
#ifdef __CUDACC__
    must(cudaMemcpy(to.data(), data_, bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
#else
    if (bytes_) std::memcpy(to.data(), data_, bytes_);
#endif
    return to;
  }

 private:
  T* data_ = nullptr;
  size_t bytes_, size_;
};

inline void finish() {
#ifdef __CUDACC__
  must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
#endif
}

// Seconds of one call: after a warm-up, the mean of as many as fit into a quarter of a second.
template <class Call>
double seconds(Call call) {
  call();
  finish();
  const auto start = std::chrono::steady_clock::now();
  int times = 0;
  double passed = 0;
  do {
    call();
    finish();
    ++times;
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  } while (passed < 0.25);
  return passed / times;
}
#endif

}  // namespace vitals
