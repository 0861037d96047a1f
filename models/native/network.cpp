// What the network says of features: novelty, gate, experts (models/novelty.py, moe.py, network.py).
#include <cmath>
#include <cstring>

#include "engine.hpp"

namespace vitalstream {
namespace {

constexpr int BLOCK = 6;  // variants whose experts run together: what fits the registers

inline floats load(const float *from) {
    floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, floats x) { std::memcpy(to, &x, sizeof x); }

inline floats all(float x) { return floats{} + x; }

// e^x within two units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
inline floats exponential(floats x) {
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
    const floats magic = all(12582912.0f);  // adding it rounds to a whole number
    const floats n = (x * 1.44269504088896341f + magic) - magic;
    floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    floats poly = all(1.9875691500e-4f);
    poly = poly * r + 1.3981999507e-3f;
    poly = poly * r + 8.3334519073e-3f;
    poly = poly * r + 4.1665795894e-2f;
    poly = poly * r + 1.6666665459e-1f;
    poly = poly * r + 5.0000001201e-1f;
    poly = poly * (r * r) + r + 1.0f;
    const ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    floats scale;
    std::memcpy(&scale, &power, sizeof scale);
    return poly * scale;
}

inline floats silu(floats x) { return x / (1.0f + exponential(-x)); }

// inner[BLOCK, N of them] = active[BLOCK, depth] @ weight[depth, N] + bias: N is COLUMNS vectors.
template <int COLUMNS>
void product(const float *active, int active_step, int depth, const float *weight, int weight_step,
             const float *bias, float *out, int out_step) {
    floats sum[BLOCK][COLUMNS];
    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < COLUMNS; j++) sum[i][j] = load(bias + j * LANES);
    for (int k = 0; k < depth; k++) {
        floats row[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) row[j] = load(weight + k * weight_step + j * LANES);
        for (int i = 0; i < BLOCK; i++) {
            const floats x = all(active[i * active_step + k]);
            for (int j = 0; j < COLUMNS; j++) sum[i][j] += x * row[j];
        }
    }
    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < COLUMNS; j++) store(out + i * out_step + j * LANES, sum[i][j]);
}

void dense(const float *active, int active_step, int depth, const float *weight, int columns,
           const float *bias, float *out, int out_step) {
    int at = 0;
    if (LANES == 16)  // the others have half as many registers
        for (; columns - at >= 4 * LANES; at += 4 * LANES)
            product<4>(active, active_step, depth, weight + at, columns, bias + at, out + at,
                       out_step);
    for (; columns - at >= 2 * LANES; at += 2 * LANES)
        product<2>(active, active_step, depth, weight + at, columns, bias + at, out + at, out_step);
    for (; at < columns; at += LANES)
        product<1>(active, active_step, depth, weight + at, columns, bias + at, out + at, out_step);
}

float interpolated(float x, const float *knot, const float *level, int count) {
    int at = 0;
    while (at < count && knot[at] < x) at++;
    at = at < 1 ? 1 : at > count - 1 ? count - 1 : at;
    float part = (x - knot[at - 1]) / (knot[at] - knot[at - 1]);
    part = part < 0.0f ? 0.0f : part > 1.0f ? 1.0f : part;
    return level[at - 1] + (level[at] - level[at - 1]) * part;
}

// How little newest values, memories and what is missing go together: models/novelty.py.
float pattern(const Model &m, const Seen &seen) {
    constexpr int OF[3] = {0, 4, 1};
    constexpr int MAX_VECTORS = (3 * MAX_SIGNALS + LANES - 1) / LANES;
    const int wide = padded(m.pattern), vectors = wide / LANES;
    floats sum[MAX_VECTORS] = {};
    for (int k = 0; k < m.pattern; k++) {
        const floats x = all(seen.signal[OF[k / m.signals]][k % m.signals] - m.pattern_centre[k]);
        const float *row = m.pattern_whiten + int64_t(k) * wide;
        for (int j = 0; j < vectors; j++) sum[j] += x * load(row + j * LANES);
    }
    floats square = floats{};
    for (int j = 0; j < vectors; j++) square += sum[j] * sum[j];
    float total = 0.0f;
    for (int lane = 0; lane < LANES; lane++) total += square[lane];
    return total;
}

struct Room {
    alignas(64) float hidden[MAX_WIDTH];
    alignas(64) float moved[MAX_SIGNALS][MAX_WIDTH];
    alignas(64) float active[BLOCK][MAX_WIDTH];
    alignas(64) float inner[BLOCK][MAX_INNER];
    alignas(64) float logits[MAX_SIGNALS + BLOCK + 1][PAD];
};

// The signal's share of the hidden units, beyond what an absent one has.
void move(const Model &m, const Seen &seen, int signal, int vital, float *out) {
    float x[D];
    for (int d = 0; d < D; d++) x[d] = seen.signal[d][signal] - m.absent[d];
    const float *weight = m.of_signals + int64_t(signal) * D * m.width;
    const float *minute = vital < 0 ? nullptr : m.of_minutes + int64_t(vital) * E * m.width;
    for (int at = 0; at < m.width; at += LANES) {
        floats sum = floats{};
        for (int d = 0; d < D; d++) sum += x[d] * load(weight + d * m.width + at);
        if (minute)
            for (int e = 0; e < E; e++)
                sum += seen.minute[e][vital] * load(minute + e * m.width + at);
        store(out + at, sum);
    }
}

}  // namespace

void network(const Model &m, const Seen &seen, const float *cases, Heard &heard) {
    static thread_local Room room;
    // First layer; what each signal that is there moves is kept for the drivers.
    int known = 0;
    std::memcpy(room.hidden, m.base, sizeof(float) * m.width);
    for (int f = 0; f < m.cases; f++) {
        if (cases[f] == 0.0f) continue;
        const float *weight = m.of_case + int64_t(f) * m.width;
        for (int at = 0; at < m.width; at += LANES)
            store(room.hidden + at, load(room.hidden + at) + cases[f] * load(weight + at));
    }
    float square = 0.0f, count = 0.0f;
    for (int s = 0; s < m.signals; s++) {
        if (!(seen.signal[1][s] < 0.5f)) continue;
        int vital = -1;
        for (int v = 0; v < m.vitals; v++)
            if (m.vital_at[v] == s) vital = v;
        float *moved = room.moved[known];
        heard.signal[known++] = s;
        move(m, seen, s, vital, moved);
        for (int at = 0; at < m.width; at += LANES)
            store(room.hidden + at, load(room.hidden + at) + load(moved + at));
        square += seen.signal[0][s] * seen.signal[0][s] + seen.signal[4][s] * seen.signal[4][s];
        count += 1.0f;
    }
    const float distance = count > 0.0f ? square / (count + 1.0f) : 0.0f;
    heard.known = known;
    const float strange = interpolated(distance, m.knot, m.level, m.knots);
    const float unlike = interpolated(pattern(m, seen), m.pattern_knot, m.level, m.knots);
    heard.novelty = strange > unlike ? strange : unlike;

    // Gate.
    float gate[EXPERTS], *share = heard.share;
    for (int i = 0; i < EXPERTS; i++) gate[i] = m.gate_bias[i];
    for (int at = 0; at < m.gate_width; at += LANES) {
        const floats x = silu(load(room.hidden + m.gate_at + at));
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < EXPERTS; i++)
                gate[i] += x[lane] * m.gate[(at + lane) * EXPERTS + i];
    }
    gate[EXPERTS - 1] += m.steep * strange;
    float top = gate[0], total = 0.0f;
    for (int i = 1; i < EXPERTS; i++) top = gate[i] > top ? gate[i] : top;
    for (int i = 0; i < EXPERTS; i++) total += share[i] = std::exp(gate[i] - top);
    for (int i = 0; i < EXPERTS; i++) share[i] = share[i] / total * (1.0f - m.always);
    share[0] += m.always;

    // Experts, of the row as it is (variant 0) and without each signal that is there.
    const int variants = known + 1, hidden = m.gate_at;
    for (int at = 0; at < variants; at += BLOCK) {
        for (int i = 0; i < BLOCK; i++) {
            const int variant = at + i;
            const float *less = variant == 0 || variant >= variants ? nullptr : room.moved[variant - 1];
            for (int j = 0; j < hidden; j += LANES) {
                floats x = load(room.hidden + j);
                if (less) x = x - load(less + j);
                store(room.active[i] + j, silu(x));
            }
        }
        for (int e = 0; e < EXPERTS; e++)
            dense(room.active[0] + m.hidden_at[e], MAX_WIDTH, m.hidden_of[e], m.body[e],
                  m.inner_of[e], m.body_bias + m.inner_at[e], room.inner[0] + m.inner_at[e],
                  MAX_INNER);
        for (int i = 0; i < BLOCK; i++)
            for (int j = 0; j < m.inner; j += LANES)
                store(room.inner[i] + j, silu(load(room.inner[i] + j)));
        dense(room.inner[0], MAX_INNER, m.inner, m.heads, PAD, m.heads_bias, room.logits[at], PAD);
    }
    for (int variant = 0; variant < variants; variant++)
        for (int r = 0; r < m.risks; r++) {
            float sum = 0.0f;
            for (int e = 0; e < EXPERTS; e++) sum += room.logits[variant][e * m.risks + r] * share[e];
            heard.mixed[variant][r] = sum;
        }
}

}  // namespace vitalstream
