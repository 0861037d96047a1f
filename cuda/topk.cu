// Threshold selection for gradients: the k entries of largest magnitude, their places ascending.
//
// Build:   make -C cuda library           (nvcc; one library with the other kernels)
//          make -C cuda check             (g++; this file's main, on the CPU under sanitizers)
// Versions
//   1  radix selection, 8 bits at a time, histogram by atomics in global memory
//   2  the same, with a histogram for each block in shared memory
//   3  11, 11 and 10 bits at a time: three passes over the gradient instead of four
//
// The magnitude's bits, read as an integer, order like the magnitude; NaN is larger than infinity, as
// it is for torch.topk. Of equal magnitudes the lower index is taken, so that every version and every
// run chooses the same. The places come out ascending, as the index coding of
// models/parallel/gradients.py wants them: nothing is sorted.
#include "common.cuh"

namespace vitals {

constexpr int kThreads = 256;
constexpr int kMostBins = 2048;

struct Selection {
  unsigned prefix;     // the threshold's bits that are known
  unsigned remaining;  // how many of those that equal the prefix are still to be taken
};

__device__ __forceinline__ unsigned magnitude(float x) {
  return __float_as_uint(x) & 0x7fffffffu;
}

__global__ void topk_begin(Selection* selection, unsigned* histogram, unsigned k) {
  for (int i = static_cast<int>(threadIdx.x); i < kMostBins; i += kThreads) histogram[i] = 0;
  if (threadIdx.x == 0) *selection = Selection{0, k};
}

// Counts the digit at `shift` of those whose higher bits are the prefix.
__global__ void __launch_bounds__(kThreads)
    topk_count_global(const float* x, i64 n, const Selection* selection, unsigned* histogram,
                      int shift, int bits) {
  const unsigned mask = (1u << bits) - 1, above = ~((u64{1} << (shift + bits)) - 1) & 0xffffffffu;
  const i64 step = static_cast<i64>(gridDim.x) * kThreads;
  for (i64 i = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const unsigned m = magnitude(x[i]);
    if ((m & above) == selection->prefix) atomicAdd(&histogram[m >> shift & mask], 1u);
  }
}

__global__ void __launch_bounds__(kThreads)
    topk_count_shared(const float* x, i64 n, const Selection* selection, unsigned* histogram,
                      int shift, int bits) {
  DYNAMIC_SHARED(unsigned, mine);
  const int bins = 1 << bits;
  for (int i = static_cast<int>(threadIdx.x); i < bins; i += kThreads) mine[i] = 0;
  __syncthreads();
  const unsigned mask = (1u << bits) - 1, above = ~((u64{1} << (shift + bits)) - 1) & 0xffffffffu;
  const unsigned prefix = selection->prefix;
  const i64 step = static_cast<i64>(gridDim.x) * kThreads;
  for (i64 i = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const unsigned m = magnitude(x[i]);
    if ((m & above) == prefix) atomicAdd(&mine[m >> shift & mask], 1u);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < bins; i += kThreads)
    if (mine[i]) atomicAdd(&histogram[i], mine[i]);
}

// One block: finds the digit in which the k-th largest lies, and empties the histogram.
__global__ void __launch_bounds__(kThreads)
    topk_choose(Selection* selection, unsigned* histogram, int shift, int bits) {
  __shared__ unsigned sums[kThreads];
  const int t = static_cast<int>(threadIdx.x), bins = 1 << bits;
  const int each = (bins + kThreads - 1) / kThreads;
  // Thread 0 has the largest digits.
  unsigned sum = 0;
  for (int i = 0; i < each; ++i) {
    const int bin = bins - 1 - (t * each + i);
    if (bin >= 0) sum += histogram[bin];
  }
  sums[t] = sum;
  __syncthreads();
  unsigned before = 0;
  for (int i = 0; i < t; ++i) before += sums[i];
  const unsigned remaining = selection->remaining;
  __syncthreads();
  for (int i = 0; i < each; ++i) {
    const int bin = bins - 1 - (t * each + i);
    if (bin < 0) break;
    const unsigned here = histogram[bin];
    if (before < remaining && remaining <= before + here) {
      selection->prefix |= static_cast<unsigned>(bin) << shift;
      selection->remaining = remaining - before;
    }
    before += here;
    histogram[bin] = 0;
  }
}

// Entries of a block: a run of the gradient, so that blocks are in the order of indices.
__device__ __forceinline__ void run_of(i64 n, i64* from, i64* to) {
  const i64 tiles = (n + kThreads - 1) / kThreads;
  const i64 each = (tiles + gridDim.x - 1) / gridDim.x * kThreads;
  *from = blockIdx.x * each < n ? blockIdx.x * each : n;
  *to = *from + each < n ? *from + each : n;
}

// Sums over a block's threads up to each one and itself; `total` is that of all.
__device__ __forceinline__ u64 inclusive(u64 mine, u64* shared, u64* total) {
  const int t = static_cast<int>(threadIdx.x);
  shared[t] = mine;
  __syncthreads();
  for (int reach = 1; reach < kThreads; reach *= 2) {
    const u64 more = t >= reach ? shared[t - reach] : 0;
    __syncthreads();
    shared[t] += more;
    __syncthreads();
  }
  const u64 sum = shared[t];
  *total = shared[kThreads - 1];
  __syncthreads();
  return sum;
}

// Above the threshold in the high half, equal to it in the low one.
__device__ __forceinline__ u64 class_of(unsigned m, unsigned threshold) {
  return m > threshold ? u64{1} << 32 : m == threshold ? 1 : 0;
}

__global__ void __launch_bounds__(kThreads)
    topk_sizes(const float* x, i64 n, const Selection* selection, u64* sizes) {
  __shared__ u64 shared[kThreads];
  i64 from, to;
  run_of(n, &from, &to);
  u64 mine = 0, total;
  for (i64 i = from + threadIdx.x; i < to; i += kThreads)
    mine += class_of(magnitude(x[i]), selection->prefix);
  inclusive(mine, shared, &total);
  if (threadIdx.x == 0) sizes[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kThreads)
    topk_write(const float* x, i64 n, const Selection* selection, const u64* sizes, i64* out) {
  __shared__ u64 shared[kThreads];
  i64 from, to;
  run_of(n, &from, &to);
  u64 earlier = 0, base;
  for (unsigned b = threadIdx.x; b < blockIdx.x; b += kThreads) earlier += sizes[b];
  inclusive(earlier, shared, &base);
  const u64 equals = selection->remaining;
  for (i64 tile = from; tile < to; tile += kThreads) {
    const i64 i = tile + threadIdx.x;
    const u64 kind = i < to ? class_of(magnitude(x[i]), selection->prefix) : 0;
    u64 total;
    const u64 place = base + inclusive(kind, shared, &total) - kind;
    const u64 above = place >> 32, equal = place & 0xffffffffu;
    if (kind > 1 || (kind == 1 && equal < equals)) out[above + (equal < equals ? equal : equals)] = i;
    base += total;
  }
}

inline unsigned blocks_for(i64 n) {
  const i64 blocks = ceil_div(n, i64{kThreads} * 8);
  return static_cast<unsigned>(blocks < 1024 ? blocks : 1024);
}

}  // namespace vitals

// Bytes of scratch memory.
EXPORT vitals::i64 vitals_topk_scratch(vitals::i64 n) {
  using namespace vitals;
  return 64 + kMostBins * i64{4} + i64{8} * blocks_for(n > 0 ? n : 1);
}

// out[k]: the places, ascending. 1 <= k <= n < 2^31. Returns 0, a CUDA error, or -1.
EXPORT int vitals_topk(int version, const float* x, vitals::i64 n, vitals::i64 k, vitals::i64* out,
                       void* scratch, void* stream_) {
  using namespace vitals;
  if (version < 1 || version > 3 || k < 1 || k > n || n > 0x7fffffff) return kBadArgument;
  const auto stream = static_cast<cudaStream_t>(stream_);
  Selection* selection = static_cast<Selection*>(scratch);
  unsigned* histogram = reinterpret_cast<unsigned*>(static_cast<char*>(scratch) + 64);
  u64* sizes = reinterpret_cast<u64*>(histogram + kMostBins);
  const dim3 grid(blocks_for(n)), threads(kThreads), one(1);
  LAUNCH(topk_begin, one, threads, 0, stream, selection, histogram, static_cast<unsigned>(k));
  const int widths[2][4] = {{8, 8, 8, 8}, {11, 11, 10, 0}};
  int shift = 32;
  for (const int bits : widths[version == 3]) {
    if (bits == 0) break;
    shift -= bits;
    if (version == 1) {
      LAUNCH(topk_count_global, grid, threads, 0, stream, x, n, selection, histogram, shift, bits);
    } else {
      LAUNCH(topk_count_shared, grid, threads, sizeof(unsigned) << bits, stream, x, n, selection,
             histogram, shift, bits);
    }
    LAUNCH(topk_choose, one, threads, 0, stream, selection, histogram, shift, bits);
  }
  LAUNCH(topk_sizes, grid, threads, 0, stream, x, n, selection, sizes);
  LAUNCH(topk_write, grid, threads, 0, stream, x, n, selection, sizes, out);
  return launched();
}

#ifdef VITALSTREAM_MAIN
#include <algorithm>
#include <numeric>

namespace vitals {

std::vector<i64> reference(const std::vector<float>& x, i64 k) {
  std::vector<i64> at(x.size());
  std::iota(at.begin(), at.end(), 0);
  const auto bits = [&](i64 i) {
    uint32_t b;
    std::memcpy(&b, &x[i], 4);
    return b & 0x7fffffffu;
  };
  std::stable_sort(at.begin(), at.end(), [&](i64 a, i64 b) { return bits(a) > bits(b); });
  at.resize(k);
  std::sort(at.begin(), at.end());
  return at;
}

int check(i64 n, i64 k, int kinds, bool timed) {
  std::mt19937 random(static_cast<unsigned>(n + k));
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& one : x)
    one = kinds ? static_cast<float>(static_cast<int>(random() % kinds) - kinds / 2) : normal(random);
  if (n > 5) x[5] = NAN;
  const std::vector<i64> expected = reference(x, k);
  Device<float> in(x);
  for (int version = 1; version <= 3; ++version) {
    Device<i64> out(std::vector<i64>(k, -1));
    Device<char> scratch{std::vector<char>(vitals_topk_scratch(n))};
    const auto select = [&] {
      must(vitals_topk(version, in.get(), n, k, out.get(), scratch.get(), nullptr), "topk");
    };
    select();
    finish();
    if (out.read() != expected) {
      std::printf("topk version %d: WRONG, %lld of %lld\n", version, k, n);
      return 1;
    }
    std::printf("topk version %d: right, %lld of %lld\n", version, k, n);
    if (timed) {
      const double s = seconds(select);
      std::printf("topk version %d: %.1f us, %.0f GB/s of one pass\n", version, s * 1e6,
                  static_cast<double>(n) * 4 / s / 1e9);
    }
  }
  return 0;
}

}  // namespace vitals

int main(int argc, char** argv) {
  const bool timed = argc > 1 && std::strcmp(argv[1], "time") == 0;
  int failed = 0;
  for (const auto n : {1LL, 2LL, 255LL, 256LL, 257LL, 5000LL})
    for (const auto k : {1LL, n / 2 + 1, n})
      for (const int kinds : {0, 1, 5}) failed |= vitals::check(n, k, kinds, false);
  if (timed) failed |= vitals::check(1835008, 1835, 0, true) || vitals::check(1 << 26, 67108, 0, true);
  return failed;
}
#endif
