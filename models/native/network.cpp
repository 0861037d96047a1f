// Features to numbers: novelty, gate, experts, trees, calibration, drivers.
#include <cmath>
#include <cstring>

#include "engine.hpp"

namespace vitalstream {
namespace {

constexpr int BLOCK = 6;  // variants whose experts run together: what fits the registers
constexpr int MAX_WIDTH = 2048;
constexpr int MAX_INNER = 1024;

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

// Levels between the knots, constant outside.
double between(double x, const double *knot, const double *level, int count) {
    int at = 0;
    while (at < count && x > knot[at]) at++;
    at = at < 1 ? 1 : at > count - 1 ? count - 1 : at;
    double part = (x - knot[at - 1]) / (knot[at] - knot[at - 1]);
    part = part < 0.0 ? 0.0 : part > 1.0 ? 1.0 : part;
    return level[at - 1] + (level[at] - level[at - 1]) * part;
}

// Calibrated log-odds of a risk's blended ones: Platt's, bent at the knots.
double calibrated(const Model &m, int risk, double raw) {
    const double x = raw * m.slope[risk] + m.intercept[risk];
    return x + between(x, m.curve_from + risk * m.bins, m.curve_by + risk * m.bins, m.bins);
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct Room {
    alignas(64) float hidden[MAX_WIDTH];
    alignas(64) float moved[MAX_SIGNALS][MAX_WIDTH];
    alignas(64) float active[BLOCK][MAX_WIDTH];
    alignas(64) float inner[BLOCK][MAX_INNER];
    alignas(64) float logits[MAX_SIGNALS + BLOCK + 1][PAD];
    Seen seen;
    Asked asked;
    int known[MAX_SIGNALS];
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

void row_of(const Model &m, const Batch &batch, int row, const Answer &out, Room &room) {
    Seen &seen = room.seen;
    features(m, batch, row, seen);
    const float *cases = batch.cases + int64_t(row) * m.cases;

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
        room.known[known++] = s;
        move(m, seen, s, vital, moved);
        for (int at = 0; at < m.width; at += LANES)
            store(room.hidden + at, load(room.hidden + at) + load(moved + at));
        square += seen.signal[0][s] * seen.signal[0][s] + seen.signal[4][s] * seen.signal[4][s];
        count += 1.0f;
    }
    const float distance = count > 0.0f ? square / (count + 1.0f) : 0.0f;
    const float novelty = interpolated(distance, m.knot, m.level, m.knots);

    // Gate.
    float gate[EXPERTS], share[EXPERTS];
    for (int i = 0; i < EXPERTS; i++) gate[i] = m.gate_bias[i];
    for (int at = 0; at < m.gate_width; at += LANES) {
        const floats x = silu(load(room.hidden + m.gate_at + at));
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < EXPERTS; i++)
                gate[i] += x[lane] * m.gate[(at + lane) * EXPERTS + i];
    }
    gate[EXPERTS - 1] += m.steep * novelty;
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
    auto mixed = [&](int variant, int risk) {
        float sum = 0.0f;
        for (int e = 0; e < EXPERTS; e++) sum += room.logits[variant][e * m.risks + risk] * share[e];
        return double(sum);
    };

    if (m.trees) ask(m, seen, cases, room.asked);

    double log_odds[MAX_RISKS], trees[MAX_RISKS], lead = -1e300;
    int leading = 0;
    for (int r = 0; r < m.risks; r++) {
        trees[r] = m.trees_at[r] < m.trees_at[r + 1] ? trees_of(m, r, room.asked) : 0.0;
        const double raw = m.blend_network[r] * mixed(0, r) + m.blend_trees[r] * trees[r];
        log_odds[r] = calibrated(m, r, raw);
        if (log_odds[r] - m.limit[r] > lead) lead = log_odds[r] - m.limit[r], leading = r;
        // Bounds: half-width by the calibrated risk, wider where the window is novel.
        double half = between(log_odds[r], m.bound_knot + r * m.bins, m.bound_width + r * m.bins,
                              m.bins);
        half *= 1.0 + m.widen * double(novelty);
        const int64_t cell = int64_t(row) * m.risks + r;
        out.log_odds[cell] = log_odds[r];
        out.p[cell] = sigmoid(log_odds[r]);
        out.low[cell] = sigmoid(log_odds[r] - half);
        out.high[cell] = sigmoid(log_odds[r] + half);
        out.positive[cell] = out.p[cell] >= m.threshold[r];
    }
    double sum = 0.0;
    for (int i = 0; i < EXPERTS; i++) sum += double(share[i]);
    for (int i = 0; i < EXPERTS; i++)
        out.share[int64_t(row) * EXPERTS + i] = double(share[i]) / sum;
    out.novelty[row] = double(novelty);

    // Drivers: the strongest effects on the leading risk.
    double effect[MAX_SIGNALS], gain[MAX_SIGNALS] = {};
    if (m.trees_at[leading] < m.trees_at[leading + 1])
        tree_effects(m, leading, room.asked, gain);
    for (int j = 0; j < known; j++)
        effect[j] = log_odds[leading] -
                    calibrated(m, leading,
                               m.blend_network[leading] * mixed(j + 1, leading) +
                                   m.blend_trees[leading] *
                                       (trees[leading] - gain[room.known[j]]));
    bool taken[MAX_SIGNALS] = {};
    for (int k = 0; k < m.drivers; k++) {
        int best = -1;
        for (int j = 0; j < known; j++)
            if (!taken[j] && (best < 0 || std::fabs(effect[j]) > std::fabs(effect[best]))) best = j;
        const int64_t cell = int64_t(row) * m.drivers + k;
        if (best >= 0) taken[best] = true;
        out.driver[cell] = int16_t(best < 0 ? -1 : room.known[best]);
        out.effect[cell] = best < 0 ? 0.0 : effect[best];
    }
}

}  // namespace
}  // namespace vitalstream

#define PUBLIC __attribute__((visibility("default")))

extern "C" {

// Sizes of the structures, so that the caller's idea of them is checked.
PUBLIC int64_t vitalstream_sizes(int which) {
    using namespace vitalstream;
    return which == 0 ? sizeof(Model) : which == 1 ? sizeof(Batch) : sizeof(Answer);
}

// Rows `begin` to `end` of a batch. Returns 0, or 1 where a size is beyond what the engine has.
PUBLIC int vitalstream_predict(const vitalstream::Model *model, const vitalstream::Batch *batch,
                        const vitalstream::Answer *answer, int32_t begin, int32_t end) {
    using namespace vitalstream;
    const int asked = model->flat + model->groups * model->terms;
    if (model->signals > MAX_SIGNALS || model->vitals > MAX_VITALS || batch->bins > MAX_BINS ||
        batch->minute_bins > MAX_BINS || model->risks > MAX_RISKS || asked > MAX_FLAT || model->terms > MAX_TERMS ||
        model->risks * EXPERTS > PAD || model->width > MAX_WIDTH || model->inner > MAX_INNER)
        return 1;
    static thread_local Room room;
    for (int row = begin; row < end; row++) row_of(*model, *batch, row, *answer, room);
    return 0;
}

// Features of all rows as models/features.py has them: [B, signals, D] and [B, vitals, E].
PUBLIC void vitalstream_features(const vitalstream::Model *model, const vitalstream::Batch *batch,
                          float *signals, float *minutes) {
    using namespace vitalstream;
    Seen seen;
    for (int row = 0; row < batch->size; row++) {
        features(*model, *batch, row, seen);
        for (int s = 0; s < model->signals; s++)
            for (int d = 0; d < D; d++) *signals++ = seen.signal[d][s];
        for (int v = 0; v < model->vitals; v++)
            for (int e = 0; e < E; e++) *minutes++ = seen.minute[e][v];
    }
}
}
