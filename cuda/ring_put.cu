// Scatter of a batch of observations into device windows, one scale's ring of bins for each slot.
//
// Build:   make -C cuda library           (nvcc; one library with the other kernels)
//          make -C cuda check             (g++; this file's main, on the CPU under sanitizers)
// Versions
//   1  each observation looks through the whole batch for one that beats it; no scratch memory
//   2  the same, with the batch's keys staged in shared memory
//   3  a hash table of the batch's cells in scratch memory: work in proportion to the batch
//
// The rule is that of models/window_store.py: a bin holds the newest value by event time, of equal
// times the one that arrived last. First the newest time of each slot moves on and the bins that the
// window enters are cleared, then values land. So the result depends on the order of arrival only
// where event times are equal, and there the later one wins whichever thread comes first.
#include "common.cuh"

namespace vitals {

enum Status : uint8_t { kLanded = 0, kSuperseded = 1, kLate = 2, kTouched = 3 };

struct Ring {
  float* value;     // [capacity, bins, count]
  int* within;      // [capacity, bins, count]: event time within the bin, -1 where empty
  uint8_t* filled;  // [capacity, bins]
  i64* newest;      // [capacity]: newest event time, -1 where none
  const i64* phase; // [capacity]
  int bins, count;
  i64 width;
};

struct Batch {
  int size;
  const int* slot;
  const int* column;  // -1: this scale does not carry the signal, the time counts all the same
  const i64* ts;
  const float* value;
  uint8_t* status;
};

struct Place {
  i64 cell;
  int within;
};

// Where an observation goes; a cell of -1 where it goes nowhere.
__device__ __forceinline__ Place place(const Ring& ring, const Batch& batch, int i) {
  const int slot = batch.slot[i], column = batch.column[i];
  const i64 ts = batch.ts[i] - ring.phase[slot];
  const i64 bin = floor_div(ts, ring.width);
  const i64 head = floor_div(ring.newest[slot] - ring.phase[slot], ring.width);
  if (column < 0 || bin <= head - ring.bins) return {-1, 0};
  const i64 row = bin - floor_div(bin, ring.bins) * ring.bins;
  return {(static_cast<i64>(slot) * ring.bins + row) * ring.count + column,
          static_cast<int>(ts - bin * ring.width)};
}

__device__ __forceinline__ void settle(const Ring& ring, const Batch& batch, int i, Place p, bool won) {
  if (p.cell < 0) {
    batch.status[i] = batch.column[i] < 0 ? kTouched : kLate;
  } else if (!won || ring.within[p.cell] > p.within) {
    batch.status[i] = kSuperseded;
  } else {
    ring.within[p.cell] = p.within;
    ring.value[p.cell] = batch.value[i];
    ring.filled[p.cell / ring.count] = 1;
    batch.status[i] = kLanded;
  }
}

__global__ void ring_put_before(Ring ring, Batch batch, i64* before) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < batch.size) before[i] = ring.newest[batch.slot[i]];
}

__global__ void ring_put_newest(Ring ring, Batch batch) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < batch.size) atomicMax(&ring.newest[batch.slot[i]], batch.ts[i]);
}

// A block for each observation; those that brought a slot's newest time clear what the window enters.
__global__ void ring_put_clear(Ring ring, Batch batch, const i64* before) {
  const int i = static_cast<int>(blockIdx.x), slot = batch.slot[i];
  const i64 now = ring.newest[slot];
  if (batch.ts[i] != now || before[i] < 0 || before[i] == now) return;
  const i64 head = floor_div(now - ring.phase[slot], ring.width);
  i64 steps = head - floor_div(before[i] - ring.phase[slot], ring.width);
  if (steps > ring.bins) steps = ring.bins;
  for (i64 k = threadIdx.x; k < steps * ring.count; k += blockDim.x) {
    const i64 bin = head - k / ring.count;
    const i64 row = static_cast<i64>(slot) * ring.bins + bin - floor_div(bin, ring.bins) * ring.bins;
    ring.value[row * ring.count + k % ring.count] = __uint_as_float(0x7fc00000u);
    ring.within[row * ring.count + k % ring.count] = -1;
    ring.filled[row] = 0;
  }
}

// Cells and times once, for versions 1 and 2: what they compare must not change under them.
__global__ void ring_put_places(Ring ring, Batch batch, Place* places) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < batch.size) places[i] = place(ring, batch, i);
}

// Whether the observation at `other` beats the one at `mine`.
__device__ __forceinline__ bool beats(Place other, int at, Place mine, int i) {
  return other.cell == mine.cell &&
         (other.within > mine.within || (other.within == mine.within && at > i));
}

__global__ void ring_put_1(Ring ring, Batch batch, const Place* places) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= batch.size) return;
  const Place mine = places[i];
  bool won = true;
  for (int j = 0; j < batch.size && won; ++j) won = !beats(places[j], j, mine, i);
  settle(ring, batch, i, mine, won);
}

constexpr int kTile = 128;

__global__ void __launch_bounds__(kTile) ring_put_2(Ring ring, Batch batch, const Place* places) {
  __shared__ Place tile[kTile];
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * kTile + t;
  const Place mine = i < batch.size ? places[i] : Place{-1, 0};
  bool won = true;
  for (int from = 0; from < batch.size; from += kTile) {
    if (from + t < batch.size) tile[t] = places[from + t];
    __syncthreads();
    const int here = batch.size - from < kTile ? batch.size - from : kTile;
    for (int j = 0; j < here; ++j) won = won && !beats(tile[j], from + j, mine, i);
    __syncthreads();
  }
  if (i < batch.size) settle(ring, batch, i, mine, won);
}

struct Entry {
  u64 cell;  // the cell plus 1; 0 where free
  u64 best;  // event time within the bin in the high half, place in the batch in the low one
};

__device__ __forceinline__ unsigned hash(u64 key) {
  key *= 0x9e3779b97f4a7c15ull;
  return static_cast<unsigned>(key >> 32);
}

__device__ __forceinline__ u64 rank(Place p, int i) {
  return static_cast<u64>(p.within) << 32 | static_cast<unsigned>(i);
}

__global__ void ring_put_3_empty(Entry* table, int slots) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < slots) table[i] = Entry{0, 0};
}

__global__ void ring_put_3_claim(Ring ring, Batch batch, Entry* table, int slots) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= batch.size) return;
  const Place mine = place(ring, batch, i);
  if (mine.cell < 0) return;
  const u64 key = static_cast<u64>(mine.cell) + 1;
  unsigned at = hash(key) & static_cast<unsigned>(slots - 1);
  for (;;) {  // the table is at most half full
    const u64 held = atomicCAS(&table[at].cell, u64{0}, key);
    if (held == 0 || held == key) break;
    at = (at + 1) & static_cast<unsigned>(slots - 1);
  }
  atomicMax(&table[at].best, rank(mine, i));
}

__global__ void ring_put_3(Ring ring, Batch batch, const Entry* table, int slots) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= batch.size) return;
  const Place mine = place(ring, batch, i);
  bool won = false;
  if (mine.cell >= 0) {
    const u64 key = static_cast<u64>(mine.cell) + 1;
    unsigned at = hash(key) & static_cast<unsigned>(slots - 1);
    while (table[at].cell != key) at = (at + 1) & static_cast<unsigned>(slots - 1);
    won = table[at].best == rank(mine, i);
  }
  settle(ring, batch, i, mine, won);
}

inline int table_slots(int size) {
  int slots = 1;
  while (slots < 2 * size) slots *= 2;
  return slots;
}

}  // namespace vitals

// Bytes of scratch memory that a batch needs.
EXPORT vitals::i64 vitals_ring_put_scratch(int version, int size) {
  using namespace vitals;
  const i64 each = version == 3 ? 0 : static_cast<i64>(sizeof(Place)) * size;
  const i64 table = version == 3 ? static_cast<i64>(sizeof(Entry)) * table_slots(size) : 0;
  return static_cast<i64>(sizeof(i64)) * size + each + table;
}

// Slots must lie within the capacity, columns below `count` and times not below 0: the caller checks,
// for only it can without reading the device. Returns 0, a CUDA error, or -1.
EXPORT int vitals_ring_put(int version, float* value, int* within, uint8_t* filled,
                           vitals::i64* newest, const vitals::i64* phase, int bins, int count,
                           vitals::i64 width_ms, int size, const int* slot, const int* column,
                           const vitals::i64* ts_ms, const float* observed, uint8_t* status,
                           void* scratch, void* stream_) {
  using namespace vitals;
  if (version < 1 || version > 3 || bins < 1 || count < 1 || width_ms < 1 ||
      width_ms > 0x7fffffff || size < 0 || size > 1 << 29)
    return kBadArgument;
  if (size == 0) return 0;
  const auto stream = static_cast<cudaStream_t>(stream_);
  const Ring ring{value, within, filled, newest, phase, bins, count, width_ms};
  const Batch batch{size, slot, column, ts_ms, observed, status};
  i64* before = static_cast<i64*>(scratch);
  void* rest = before + size;
  const dim3 blocks(static_cast<unsigned>(ceil_div(size, kTile))), threads(kTile);
  LAUNCH(ring_put_before, blocks, threads, 0, stream, ring, batch, before);
  LAUNCH(ring_put_newest, blocks, threads, 0, stream, ring, batch);
  LAUNCH(ring_put_clear, dim3(static_cast<unsigned>(size)), dim3(64), 0, stream, ring, batch, before);
  if (version == 3) {
    Entry* table = static_cast<Entry*>(rest);
    const int slots = table_slots(size);
    const dim3 wide(static_cast<unsigned>(ceil_div(slots, kTile)));
    LAUNCH(ring_put_3_empty, wide, threads, 0, stream, table, slots);
    LAUNCH(ring_put_3_claim, blocks, threads, 0, stream, ring, batch, table, slots);
    LAUNCH(ring_put_3, blocks, threads, 0, stream, ring, batch, table, slots);
  } else {
    Place* places = static_cast<Place*>(rest);
    LAUNCH(ring_put_places, blocks, threads, 0, stream, ring, batch, places);
    if (version == 1) LAUNCH(ring_put_1, blocks, threads, 0, stream, ring, batch, places);
    if (version == 2) LAUNCH(ring_put_2, blocks, threads, 0, stream, ring, batch, places);
  }
  return launched();
}

#ifdef VITALSTREAM_MAIN
namespace vitals {

struct Store {
  std::vector<float> value;
  std::vector<int> within;
  std::vector<uint8_t> filled;
  std::vector<i64> newest, phase;
};

// One observation after the other, as it is said.
void reference(Store& s, int bins, int count, i64 width, const std::vector<int>& slot,
               const std::vector<int>& column, const std::vector<i64>& ts,
               const std::vector<float>& value) {
  const auto row_of = [&](int at, i64 bin) {
    return static_cast<size_t>(at) * bins + (bin - floor_div(bin, bins) * bins);
  };
  for (size_t i = 0; i < slot.size(); ++i) {
    const int at = slot[i];
    const i64 old = s.newest[at];
    if (ts[i] <= old) continue;
    s.newest[at] = ts[i];
    const i64 head = floor_div(ts[i] - s.phase[at], width);
    for (i64 bin = floor_div(old - s.phase[at], width) + 1; old >= 0 && bin <= head; ++bin) {
      if (bin <= head - bins) continue;
      s.filled[row_of(at, bin)] = 0;
      for (int c = 0; c < count; ++c) {
        s.value[row_of(at, bin) * count + c] = NAN;
        s.within[row_of(at, bin) * count + c] = -1;
      }
    }
  }
  for (size_t i = 0; i < slot.size(); ++i) {
    const i64 in = ts[i] - s.phase[slot[i]], bin = floor_div(in, width);
    const i64 head = floor_div(s.newest[slot[i]] - s.phase[slot[i]], width);
    if (column[i] < 0 || bin <= head - bins) continue;
    const size_t row = row_of(slot[i], bin), cell = row * count + column[i];
    if (s.within[cell] > in - bin * width) continue;
    s.within[cell] = static_cast<int>(in - bin * width);
    s.value[cell] = value[i];
    s.filled[row] = 1;
  }
}

int check(int beds, int bins, int count, int size, int rounds, bool timed) {
  std::mt19937 random(7);
  const auto below = [&](i64 n) { return static_cast<i64>(random() % static_cast<u64>(n)); };
  const i64 width = 1000;
  Store s{std::vector<float>(static_cast<size_t>(beds) * bins * count, NAN),
          std::vector<int>(static_cast<size_t>(beds) * bins * count, -1),
          std::vector<uint8_t>(static_cast<size_t>(beds) * bins, 0), std::vector<i64>(beds, -1),
          std::vector<i64>(beds)};
  for (i64& phase : s.phase) phase = below(5000);
  for (int version = 1; version <= 3; ++version) {
    Store expected = s;
    Device<float> value(s.value);
    Device<int> within(s.within);
    Device<uint8_t> filled(s.filled), status{std::vector<uint8_t>(size)};
    Device<i64> newest(s.newest), phase(s.phase);
    Device<uint8_t> scratch{std::vector<uint8_t>(vitals_ring_put_scratch(version, size))};
    for (int round = 0; round < rounds; ++round) {
      std::vector<int> slot(size), column(size);
      std::vector<i64> ts(size);
      std::vector<float> observed(size);
      for (int i = 0; i < size; ++i) {
        slot[i] = static_cast<int>(below(beds));
        column[i] = static_cast<int>(below(count + 1)) - 1;
        ts[i] = below(width * 2) + round * width * (round % 3 ? 1 : bins);
        observed[i] = static_cast<float>(below(1000));
      }
      Device<int> slots(slot), columns(column);
      Device<i64> times(ts);
      Device<float> values(observed);
      const auto put = [&] {
        must(vitals_ring_put(version, value.get(), within.get(), filled.get(), newest.get(),
                             phase.get(), bins, count, width, size, slots.get(), columns.get(),
                             times.get(), values.get(), status.get(), scratch.get(), nullptr),
             "ring_put");
      };
      put();
      finish();
      reference(expected, bins, count, width, slot, column, ts, observed);
      const std::vector<float> got = value.read();
      if (within.read() != expected.within || filled.read() != expected.filled ||
          newest.read() != expected.newest ||
          std::memcmp(got.data(), expected.value.data(), got.size() * 4) != 0) {
        std::printf("ring_put version %d: WRONG in round %d\n", version, round);
        return 1;
      }
      if (timed && round == rounds - 1)
        std::printf("ring_put version %d: %d observations, %.1f us\n", version, size,
                    seconds(put) * 1e6);
    }
    std::printf("ring_put version %d: right, %d beds, %d observations\n", version, beds, size);
  }
  return 0;
}

}  // namespace vitals

int main(int argc, char** argv) {
  const bool timed = argc > 1 && std::strcmp(argv[1], "time") == 0;
  int failed = vitals::check(3, 5, 4, 60, 9, false) || vitals::check(1, 1, 1, 130, 4, false);
  if (timed) failed |= vitals::check(100000, 48, 40, 16384, 3, true);
  return failed;
}
#endif
