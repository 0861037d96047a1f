// 3D convolution in half precision on a part of a split volume, reading the neighbours' slabs in place.
//
// Build:   make -C cuda library           (nvcc; one library with the other kernels)
//          make -C cuda check             (g++; this file's main, on the CPU under sanitizers)
// Versions
//   1  one thread for each output
//   2  an implicit matrix product in tiles of 32 x 32, staged in shared memory
//   3  the same on tensor cores, in tiles of 64 x 64: four warps with 2 x 2 fragments each
//
// The input is a list of pieces along the split dimension: this rank's slab and whatever of the
// neighbours' its outputs read, each where it lies, with its own strides. Nothing is concatenated or
// padded. Sums are in float; bias and activation are applied to them before they are rounded to half.
// As a matrix product: rows are outputs (n, d, h, w), columns output channels of a group, and the
// inner dimension is (input channel, kernel d, h, w).
#include "common.cuh"

namespace vitals {

constexpr int kMostPieces = 16;

struct Piece {
  const half* data;
  i64 start, size;  // along the split dimension, of the whole volume
  i64 stride[5];    // in elements: n, c, d, h, w
};

struct Conv {
  Piece piece[kMostPieces];
  int pieces, dim;  // dim: 0, 1 or 2 for d, h or w
  int n, c, o, groups;
  int in[3];        // the whole volume's
  int kernel[3], stride[3], padding[3], dilation[3];
  int out[3];       // this part's
  i64 out_start;    // of this part along the split dimension
  const half* weight;  // [o, c / groups, kernel]
  const float* bias;   // [o] or null
  half* y;             // [n, o, out]
  int activation;
};

enum Activation { kNone = 0, kRelu = 1, kGelu = 2, kSilu = 3 };

__device__ __forceinline__ float activate(float x, int activation) {
  if (activation == kRelu) return x > 0.0f || x != x ? x : 0.0f;
  if (activation == kGelu) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  if (activation == kSilu) return x / (1.0f + expf(-x));
  return x;
}

__device__ __forceinline__ half zero() { return __float2half(0.0f); }

// An input by its place in the whole volume; zero in the padding.
__device__ __forceinline__ half input(const Conv& v, int n, int c, int d, int h, int w) {
  if (d < 0 || h < 0 || w < 0 || d >= v.in[0] || h >= v.in[1] || w >= v.in[2]) return zero();
  const int at = v.dim == 0 ? d : v.dim == 1 ? h : w;
  for (int p = 0; p < v.pieces; ++p) {
    const Piece& piece = v.piece[p];
    const i64 in = at - piece.start;
    if (in < 0 || in >= piece.size) continue;
    return piece.data[n * piece.stride[0] + c * piece.stride[1] +
                      (v.dim == 0 ? in : d) * piece.stride[2] +
                      (v.dim == 1 ? in : h) * piece.stride[3] +
                      (v.dim == 2 ? in : w) * piece.stride[4]];
  }
  return zero();
}

// The first input that an output reads; a case of -1 beyond the last output.
struct Origin {
  int n, d, h, w;
};

__device__ __forceinline__ i64 positions(const Conv& v) {
  return static_cast<i64>(v.out[0]) * v.out[1] * v.out[2];
}

__device__ __forceinline__ Origin origin(const Conv& v, i64 row) {
  const i64 each = positions(v);
  if (row >= each * v.n) return {-1, 0, 0, 0};
  int at = static_cast<int>(row % each);
  const int w = at % v.out[2];
  at /= v.out[2];
  const int h = at % v.out[1], d = at / v.out[1], from = static_cast<int>(v.out_start);
  return {static_cast<int>(row / each), (d + (v.dim == 0 ? from : 0)) * v.stride[0] - v.padding[0],
          (h + (v.dim == 1 ? from : 0)) * v.stride[1] - v.padding[1],
          (w + (v.dim == 2 ? from : 0)) * v.stride[2] - v.padding[2]};
}

__device__ __forceinline__ int inner(const Conv& v) {
  return v.c / v.groups * v.kernel[0] * v.kernel[1] * v.kernel[2];
}

// The element of the left matrix: row by its origin, column k of a group.
__device__ __forceinline__ half left(const Conv& v, Origin from, int group, int k) {
  if (from.n < 0 || k >= inner(v)) return zero();
  const int kw = k % v.kernel[2];
  k /= v.kernel[2];
  const int kh = k % v.kernel[1];
  k /= v.kernel[1];
  const int kd = k % v.kernel[0], c = k / v.kernel[0];
  return input(v, from.n, group * (v.c / v.groups) + c, from.d + kd * v.dilation[0],
               from.h + kh * v.dilation[1], from.w + kw * v.dilation[2]);
}

__device__ __forceinline__ half right(const Conv& v, int group, int k, int column) {
  const int columns = v.o / v.groups, length = inner(v);
  if (k >= length || column >= columns) return zero();
  return v.weight[static_cast<i64>(group * columns + column) * length + k];
}

__device__ __forceinline__ void put(const Conv& v, i64 row, int channel, float sum) {
  const i64 each = positions(v);
  if (v.bias) sum += v.bias[channel];
  v.y[(row / each * v.o + channel) * each + row % each] = __float2half(activate(sum, v.activation));
}

__global__ void __launch_bounds__(128) conv3d_split_1(const __grid_constant__ Conv v) {
  const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  const i64 each = positions(v);
  if (i >= each * v.n * v.o) return;
  const int channel = static_cast<int>(i / each % v.o);
  const i64 row = i / (each * v.o) * each + i % each;
  const Origin from = origin(v, row);
  const int columns = v.o / v.groups, group = channel / columns, length = inner(v);
  float sum = 0;
  for (int k = 0; k < length; ++k)
    sum += __half2float(left(v, from, group, k)) *
           __half2float(right(v, group, k, channel - group * columns));
  put(v, row, channel, sum);
}

__global__ void __launch_bounds__(256) conv3d_split_2(const __grid_constant__ Conv v) {
  constexpr int kSide = 32, kDeep = 16;
  __shared__ Origin rows[kSide];
  __shared__ float a[kDeep][kSide + 1], b[kDeep][kSide + 1];
  const int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
  const int group = static_cast<int>(blockIdx.z), columns = v.o / v.groups, length = inner(v);
  const i64 row0 = static_cast<i64>(blockIdx.x) * kSide;
  const int column0 = static_cast<int>(blockIdx.y) * kSide;
  if (t < kSide) rows[t] = origin(v, row0 + t);
  __syncthreads();
  float sum[2][2] = {{0, 0}, {0, 0}};
  for (int k0 = 0; k0 < length; k0 += kDeep) {
    for (int i = t; i < kSide * kDeep; i += 256) {
      a[i / kSide][i % kSide] = __half2float(left(v, rows[i % kSide], group, k0 + i / kSide));
      b[i % kDeep][i / kDeep] = __half2float(right(v, group, k0 + i % kDeep, column0 + i / kDeep));
    }
    __syncthreads();
    for (int k = 0; k < kDeep; ++k)
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) sum[i][j] += a[k][tx + 16 * i] * b[k][ty + 16 * j];
    __syncthreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) {
      const int row = tx + 16 * i, column = column0 + ty + 16 * j;
      if (rows[row].n >= 0 && column < columns)
        put(v, row0 + row, group * columns + column, sum[i][j]);
    }
}

// Compiled for the host, and for devices that have tensor cores; every target of the Makefile has.
__global__ void __launch_bounds__(128) conv3d_split_3(const __grid_constant__ Conv v) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700
  namespace wmma = nvcuda::wmma;
  constexpr int kSide = 64, kDeep = 32, kA = kDeep + 8, kB = kSide + 8, kC = kSide + 8;
  __shared__ Origin rows[kSide];
  __shared__ __align__(128) half a[kSide * kA];
  __shared__ __align__(128) half b[kDeep * kB];
  __shared__ __align__(128) float c[kSide * kC];
  const int t = static_cast<int>(threadIdx.x), warp = t / 32;
  const int top = warp / 2 * 32, side = warp % 2 * 32;
  const int group = static_cast<int>(blockIdx.z), columns = v.o / v.groups, length = inner(v);
  const i64 row0 = static_cast<i64>(blockIdx.x) * kSide;
  const int column0 = static_cast<int>(blockIdx.y) * kSide;
  if (t < kSide) rows[t] = origin(v, row0 + t);
  __syncthreads();
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[2][2];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) wmma::fill_fragment(sum[i][j], 0.0f);
  for (int k0 = 0; k0 < length; k0 += kDeep) {
    for (int i = t; i < kSide * kDeep; i += 128) {
      // Neighbouring threads take neighbouring outputs of the volume, and of the weight's inner side.
      a[i % kSide * kA + i / kSide] = left(v, rows[i % kSide], group, k0 + i / kSide);
      b[i % kDeep * kB + i / kDeep] = right(v, group, k0 + i % kDeep, column0 + i / kDeep);
    }
    __syncthreads();
    for (int k = 0; k < kDeep; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> fb[2];
      for (int i = 0; i < 2; ++i) {
        wmma::load_matrix_sync(fa[i], a + (top + 16 * i) * kA + k, kA);
        wmma::load_matrix_sync(fb[i], b + k * kB + side + 16 * i, kB);
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) wmma::mma_sync(sum[i][j], fa[i], fb[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      wmma::store_matrix_sync(c + (top + 16 * i) * kC + side + 16 * j, sum[i][j], kC,
                              wmma::mem_row_major);
  __syncthreads();
  for (int i = t; i < kSide * kSide; i += 128) {
    const int row = i % kSide, column = i / kSide;
    if (rows[row].n >= 0 && column0 + column < columns)
      put(v, row0 + row, group * columns + column0 + column, c[row * kC + column]);
  }
#endif
}

}  // namespace vitals

// Convolves one part of the output along the split dimension.
//
// geometry: n, c, o, groups, dim (0, 1 or 2), out_start, activation; then three each of the whole
// input, kernel, stride, padding, dilation and this part's output. spans: start and size of each piece
// along the split dimension; strides: five of each, in elements. Pieces must hold every input within
// the volume that the part reads; where none does, -1 is returned. Returns 0, a CUDA error, or -1.
EXPORT int vitals_conv3d_split(int version, const vitals::i64* geometry, int pieces,
                               const void* const* data, const vitals::i64* spans,
                               const vitals::i64* strides, const void* weight, const float* bias,
                               void* y, void* stream_) {
  using namespace vitals;
  Conv v{};
  if (version < 1 || version > 3 || pieces < 0 || pieces > kMostPieces) return kBadArgument;
  for (int i = 0; i < 25; ++i)
    if (geometry[i] < 0 || geometry[i] > 0x7fffffff) return kBadArgument;
  const auto at = [&](int i) { return static_cast<int>(geometry[i]); };
  v.n = at(0), v.c = at(1), v.o = at(2), v.groups = at(3), v.dim = at(4);
  v.out_start = geometry[5];
  v.activation = at(6);
  for (int i = 0; i < 3; ++i) {
    v.in[i] = at(7 + i), v.kernel[i] = at(10 + i), v.stride[i] = at(13 + i);
    v.padding[i] = at(16 + i), v.dilation[i] = at(19 + i), v.out[i] = at(22 + i);
    if (v.kernel[i] < 1 || v.stride[i] < 1 || v.dilation[i] < 1) return kBadArgument;
    const i64 last = (v.out[i] - i64{1} + (i == v.dim ? v.out_start : 0)) * v.stride[i];
    if (v.out[i] > 0 && last + i64{v.dilation[i]} * (v.kernel[i] - 1) >= v.in[i] + 2 * geometry[16 + i])
      return kBadArgument;  // it reads beyond the padded volume
  }
  if (v.dim > 2 || v.groups < 1 || v.groups > 65535 || v.c % v.groups || v.o % v.groups ||
      v.activation > kSilu || at(0) * geometry[22] * geometry[23] * geometry[24] > 0x7fffffff)
    return kBadArgument;
  const i64 rows = geometry[0] * geometry[22] * geometry[23] * geometry[24];
  const int columns = v.o / v.groups;
  if (rows == 0 || v.o == 0) return 0;
  v.pieces = pieces;
  for (int p = 0; p < pieces; ++p) {
    v.piece[p].data = static_cast<const half*>(data[p]);
    v.piece[p].start = spans[2 * p];
    v.piece[p].size = spans[2 * p + 1];
    for (int i = 0; i < 5; ++i) v.piece[p].stride[i] = strides[5 * p + i];
  }
  const i64 first = v.out_start * v.stride[v.dim] - v.padding[v.dim];
  const i64 field = (v.out[v.dim] - i64{1}) * v.stride[v.dim] +
                    i64{v.dilation[v.dim]} * (v.kernel[v.dim] - 1) + 1;
  for (i64 i = first < 0 ? 0 : first; i < first + field && i < v.in[v.dim];) {
    i64 next = i;
    for (int p = 0; p < pieces; ++p)
      if (v.piece[p].start <= i && i < v.piece[p].start + v.piece[p].size)
        next = v.piece[p].start + v.piece[p].size;
    if (next == i) return kBadArgument;
    i = next;
  }
  v.weight = static_cast<const half*>(weight);
  v.bias = bias;
  v.y = static_cast<half*>(y);
  const auto stream = static_cast<cudaStream_t>(stream_);
  const auto blocks = [&](i64 a, int side) { return static_cast<unsigned>(ceil_div(a, i64{side})); };
  if (version == 1) {
    if (ceil_div(rows * v.o, i64{128}) > 0x7fffffff) return kBadArgument;
    LAUNCH(conv3d_split_1, dim3(blocks(rows * v.o, 128)), dim3(128), 0, stream, v);
  }
  if (version == 2) {
    const dim3 grid(blocks(rows, 32), blocks(columns, 32), static_cast<unsigned>(v.groups));
    LAUNCH(conv3d_split_2, grid, dim3(256), 0, stream, v);
  }
  if (version == 3) {
    const dim3 grid(blocks(rows, 64), blocks(columns, 64), static_cast<unsigned>(v.groups));
    LAUNCH(conv3d_split_3, grid, dim3(128), 0, stream, v);
  }
  return launched();
}

#ifdef VITALSTREAM_MAIN
namespace vitals {

struct Case {
  int n, c, o, groups, dim;
  int in[3], kernel[3], stride[3], padding[3], dilation[3];
  std::vector<int> cuts;  // of the split dimension, between the slabs
  int activation;
};

// The whole volume at once, in double.
double reference(const Case& k, const int out[3], const std::vector<half>& x,
                 const std::vector<half>& weight, const std::vector<float>& bias, int n, int o, int d,
                 int h, int w) {
  (void)out;
  const int cg = k.c / k.groups, group = o / (k.o / k.groups);
  double sum = bias[o];
  for (int c = 0; c < cg; ++c)
    for (int a = 0; a < k.kernel[0]; ++a)
      for (int b = 0; b < k.kernel[1]; ++b)
        for (int e = 0; e < k.kernel[2]; ++e) {
          const int p = d * k.stride[0] - k.padding[0] + a * k.dilation[0];
          const int q = h * k.stride[1] - k.padding[1] + b * k.dilation[1];
          const int r = w * k.stride[2] - k.padding[2] + e * k.dilation[2];
          if (p < 0 || q < 0 || r < 0 || p >= k.in[0] || q >= k.in[1] || r >= k.in[2]) continue;
          const size_t at = (((static_cast<size_t>(n) * k.c + group * cg + c) * k.in[0] + p) *
                             k.in[1] + q) * k.in[2] + r;
          const size_t wt = (((static_cast<size_t>(o) * cg + c) * k.kernel[0] + a) * k.kernel[1] +
                             b) * k.kernel[2] + e;
          sum += static_cast<double>(__half2float(x[at])) * __half2float(weight[wt]);
        }
  return k.activation == kRelu && sum < 0 ? 0 : sum;
}

int check(const Case& k, bool timed) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const auto halves = [&](size_t count, float scale) {
    std::vector<half> all(count);
    for (half& one : all) one = __float2half(normal(random) * scale);
    return all;
  };
  int out[3];
  for (int i = 0; i < 3; ++i)
    out[i] = (k.in[i] + 2 * k.padding[i] - k.dilation[i] * (k.kernel[i] - 1) - 1) / k.stride[i] + 1;
  const int volume = k.kernel[0] * k.kernel[1] * k.kernel[2], length = k.c / k.groups * volume;
  const std::vector<half> x = halves(static_cast<size_t>(k.n) * k.c * k.in[0] * k.in[1] * k.in[2], 1);
  const std::vector<half> weight =
      halves(static_cast<size_t>(k.o) * length, 1 / std::sqrt(static_cast<float>(length)));
  std::vector<float> bias(k.o);
  for (float& one : bias) one = normal(random);
  // Slabs, each in its own memory, as neighbours' are.
  std::vector<std::unique_ptr<Device<half>>> slabs;
  std::vector<const void*> data;
  std::vector<i64> spans, strides;
  std::vector<int> edges = {0};
  edges.insert(edges.end(), k.cuts.begin(), k.cuts.end());
  edges.push_back(k.in[k.dim]);
  for (size_t s = 0; s + 1 < edges.size(); ++s) {
    int size[3] = {k.in[0], k.in[1], k.in[2]}, from[3] = {0, 0, 0};
    size[k.dim] = edges[s + 1] - edges[s];
    from[k.dim] = edges[s];
    std::vector<half> slab;
    for (int nc = 0; nc < k.n * k.c; ++nc)
      for (int d = 0; d < size[0]; ++d)
        for (int h = 0; h < size[1]; ++h)
          for (int w = 0; w < size[2]; ++w)
            slab.push_back(x[((static_cast<size_t>(nc) * k.in[0] + d + from[0]) * k.in[1] + h +
                              from[1]) * k.in[2] + w + from[2]]);
    slabs.push_back(std::make_unique<Device<half>>(slab));
    data.push_back(slabs.back()->get());
    spans.insert(spans.end(), {edges[s], size[k.dim]});
    const i64 area = static_cast<i64>(size[1]) * size[2];
    strides.insert(strides.end(), {k.c * size[0] * area, size[0] * area, area, size[2], 1});
  }
  Device<half> weights(weight);
  Device<float> biases(bias);
  const size_t outputs = static_cast<size_t>(k.n) * k.o * out[0] * out[1] * out[2];
  for (int version = 1; version <= 3; ++version) {
    Device<half> y{std::vector<half>(outputs)};
    const i64 geometry[25] = {k.n, k.c, k.o, k.groups, k.dim, 0, k.activation,
                              k.in[0], k.in[1], k.in[2], k.kernel[0], k.kernel[1], k.kernel[2],
                              k.stride[0], k.stride[1], k.stride[2],
                              k.padding[0], k.padding[1], k.padding[2],
                              k.dilation[0], k.dilation[1], k.dilation[2], out[0], out[1], out[2]};
    const auto convolve = [&] {
      must(vitals_conv3d_split(version, geometry, static_cast<int>(data.size()), data.data(),
                               spans.data(), strides.data(), weights.get(), biases.get(), y.get(),
                               nullptr), "conv3d_split");
    };
    convolve();
    finish();
    const std::vector<half> got = y.read();
    double worst = 0;
    const size_t step = timed ? outputs / 997 + 1 : 1;  // all of a large one would take minutes
    for (size_t i = 0; i < outputs; i += step) {
      size_t at = i;
      const int w = static_cast<int>(at % out[2]);
      at /= out[2];
      const int h = static_cast<int>(at % out[1]);
      at /= out[1];
      const int d = static_cast<int>(at % out[0]);
      at /= out[0];
      const double want = reference(k, out, x, weight, bias, static_cast<int>(at / k.o),
                                    static_cast<int>(at % k.o), d, h, w);
      worst = std::fmax(worst, std::fabs(__half2float(got[i]) - want) / (1 + std::fabs(want)));
    }
    const bool right = worst <= 1e-3;
    std::printf("conv3d_split version %d: %s, error %.1e\n", version, right ? "right" : "WRONG", worst);
    if (!right) return 1;
    if (timed) {
      const double s = seconds(convolve);
      std::printf("conv3d_split version %d: %.2f ms, %.1f TFLOP/s\n", version, s * 1e3,
                  2.0 * static_cast<double>(outputs) * length / s / 1e12);
    }
  }
  return 0;
}

}  // namespace vitals

int main(int argc, char** argv) {
  const bool timed = argc > 1 && std::strcmp(argv[1], "time") == 0;
  int failed = vitals::check({2, 3, 5, 1, 0, {7, 5, 6}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1},
                              {2, 3}, 1}, false) ||
               vitals::check({1, 4, 6, 2, 2, {3, 4, 9}, {1, 2, 5}, {1, 2, 2}, {0, 1, 3}, {1, 1, 2},
                              {4}, 0}, false);
  if (timed)
    failed |= vitals::check({1, 32, 32, 1, 0, {64, 128, 128}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1},
                             {1, 1, 1}, {16, 48}, 1}, true);
  return failed;
}
#endif
