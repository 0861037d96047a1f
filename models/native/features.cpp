// Windows to features, the bits of models/features.py: compiled with -ffp-contract=off.
#include <cmath>
#include <cstring>
#include <limits>

#include "engine.hpp"

namespace vitalstream {
namespace {

constexpr float NONE = std::numeric_limits<float>::quiet_NaN();
constexpr float INF = std::numeric_limits<float>::infinity();

inline floats load(const float *from) {
    floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, floats x) { std::memcpy(to, &x, sizeof x); }

inline floats all(float x) { return floats{} + x; }

inline floats clamped(floats x) {
    x = x < -CLIP ? all(-CLIP) : x;
    return x > CLIP ? all(CLIP) : x;
}

// Sums with decay, pairwise from the newest bin: models/layers.py. `x` is [bins, width].
void memories(const float *x, int bins, int width, float decay, float *room, float *out) {
    const float *from = x;
    while (bins > 1) {
        const int odd = bins % 2, pairs = (bins + 1) / 2;
        for (int pair = 0; pair < pairs; pair++) {
            const int late = 2 * pair + 1 - odd, early = late - 1;
            for (int at = 0; at < width; at += LANES) {
                const floats old = early < 0 ? floats{} : load(from + early * width + at);
                store(room + pair * width + at, load(from + late * width + at) + old * decay);
            }
        }
        from = room;
        bins = pairs;
        decay = decay * decay;
    }
    std::memcpy(out, from, sizeof(float) * width);
}

}  // namespace

void features(const Model &model, const Batch &batch, int row, Seen &seen) {
    const int count = model.signals, width = padded(count);
    const int bins = batch.length[row] < batch.bins ? batch.length[row] : batch.bins;
    const float *hours =
        batch.hours + (int64_t(row) * batch.bins + (batch.bins - bins)) * count;
    // Values, then where they are: both halves of one bin lie side by side, as channels.
    alignas(64) static thread_local float room[MAX_BINS * 2 * MAX_SIGNALS];
    alignas(64) static thread_local float half[MAX_BINS * MAX_SIGNALS];
    alignas(64) float pooled[MEMORIES][2 * MAX_SIGNALS];
    alignas(64) float low[MAX_SIGNALS], high[MAX_SIGNALS], newest[MAX_SIGNALS];
    alignas(64) float typical[MAX_SIGNALS], centre[MAX_SIGNALS], spread[MAX_SIGNALS];
    alignas(64) int32_t skewed[MAX_SIGNALS];
    for (int s = 0; s < width; s++) {
        const bool real = s < count;
        typical[s] = real ? model.typical[s] : 1.0f;
        centre[s] = real ? model.centre[s] : 0.0f;
        spread[s] = real ? model.spread[s] : 1.0f;
        skewed[s] = real && model.skewed[s] ? -1 : 0;
        newest[s] = real ? batch.newest[int64_t(row) * count + s] : NONE;
    }
    auto standard = [&](floats x, int at) {
        ints tail;
        std::memcpy(&tail, skewed + at, sizeof tail);
        const floats squashed = tail ? x / (x + load(typical + at)) : x;
        return clamped((squashed - load(centre + at)) / load(spread + at));
    };
    for (int at = 0; at < width; at += LANES) {
        const int part = count - at < LANES ? count - at : LANES;
        floats least = all(INF), most = all(-INF);
        for (int bin = 0; bin < bins; bin++) {
            floats raw = all(NONE);
            std::memcpy(&raw, hours + int64_t(bin) * count + at, sizeof(float) * part);
            const ints here = raw == raw;
            const floats z = standard(raw, at);
            least = (here && z < least) ? z : least;
            most = (here && z > most) ? z : most;
            store(room + bin * 2 * width + at, here ? z : floats{});
            store(room + bin * 2 * width + width + at, here ? all(1.0f) : floats{});
        }
        const ints some = least <= CLIP;
        store(low + at, some ? least : floats{});
        store(high + at, some ? most : floats{});
    }
    for (int k = 0; k < MEMORIES; k++)
        memories(room, bins, 2 * width, model.decay[k], half, pooled[k]);
    for (int at = 0; at < width; at += LANES) {
        const floats now = load(newest + at);
        const ints known = now == now;
        floats age = floats{};
        for (int s = at; s < at + LANES && s < count; s++)
            age[s - at] = float(batch.age_ms[int64_t(row) * count + s]);
        store(seen.signal[0] + at, known ? standard(now, at) : floats{});
        store(seen.signal[1] + at, known ? floats{} : all(1.0f));
        store(seen.signal[2] + at, known ? age / (age + model.age_ms) : all(1.0f));
        for (int k = 0; k < MEMORIES; k++) {
            const floats weight = load(pooled[k] + width + at);
            const floats mean = load(pooled[k] + at) / weight;
            store(seen.signal[3 + k] + at, weight > 0.0f ? mean : floats{});
            if (k > 0) store(seen.signal[5 + k] + at, weight * (1.0f - model.decay[k]));
        }
        store(seen.signal[8] + at, load(low + at));
        store(seen.signal[9] + at, load(high + at));
    }

    // The last hour of the vitals.
    const float *minutes = batch.minutes + int64_t(row) * batch.minute_bins * model.vitals;
    alignas(64) float middle[MAX_VITALS] = {}, scale[MAX_VITALS];
    for (int v = 0; v < MAX_VITALS; v++) {
        if (v < model.vitals) middle[v] = model.centre[model.vital_at[v]];
        scale[v] = v < model.vitals ? model.spread[model.vital_at[v]] : 1.0f;
    }
    for (int at = 0; at < MAX_VITALS; at += LANES) {
        const int left = model.vitals - at, part = left < 0 ? 0 : left < LANES ? left : LANES;
        floats least = all(INF), most = all(-INF);
        for (int bin = 0; bin < batch.minute_bins; bin++) {
            floats raw = all(NONE);
            std::memcpy(&raw, minutes + bin * model.vitals + at, sizeof(float) * part);
            const ints here = raw == raw;
            const floats z = clamped((raw - load(middle + at)) / load(scale + at));
            least = (here && z < least) ? z : least;
            most = (here && z > most) ? z : most;
            store(room + bin * 2 * MAX_VITALS + at, here ? z : floats{});
            store(room + bin * 2 * MAX_VITALS + MAX_VITALS + at, here ? all(1.0f) : floats{});
        }
        const ints some = least <= CLIP;
        store(seen.minute[2] + at, some ? least : floats{});
        store(seen.minute[3] + at, some ? most : floats{});
    }
    memories(room, batch.minute_bins, 2 * MAX_VITALS, 1.0f, half, pooled[0]);
    for (int at = 0; at < MAX_VITALS; at += LANES) {
        const floats number = load(pooled[0] + MAX_VITALS + at);
        const ints present = number > 0.0f;
        store(seen.minute[0] + at, present ? all(1.0f) : floats{});
        store(seen.minute[1] + at, present ? load(pooled[0] + at) / number : floats{});
    }
}

}  // namespace vitalstream
