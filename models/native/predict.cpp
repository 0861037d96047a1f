// A batch to numbers: windows in blocks, since trees read many at once; calibration and drivers
// (models/calibration.py, subgroups.py, explain.py).
#include <cmath>
#include <cstring>

#include "engine.hpp"

namespace vitalstream {
namespace {

struct Window {
    Asked asked;
    Heard heard;
    double trees[MAX_RISKS], log_odds[MAX_RISKS];
    double steep[MAX_RISKS], level[MAX_RISKS];  // the patient's subgroups make of the curve
    double like;                  // the second hospital's
    double without[MAX_SIGNALS];  // trees of the leading risk without each signal that is there
    int leading;
};

struct Room {
    Seen seen;
    Window window[ABREAST];
    Bins bins, less;
    Variant variant[ABREAST];
    double *to[ABREAST];
};

// Levels between the knots, constant outside.
double between(double x, const double *knot, const double *level, int count) {
    int at = 0;
    while (at < count && x > knot[at]) at++;
    at = at < 1 ? 1 : at > count - 1 ? count - 1 : at;
    double part = (x - knot[at - 1]) / (knot[at] - knot[at - 1]);
    part = part < 0.0 ? 0.0 : part > 1.0 ? 1.0 : part;
    return level[at - 1] + (level[at] - level[at - 1]) * part;
}

// Slope and intercept that the patient's unit, sex and age give the curve (models/subgroups.py).
void belong(const Model &m, const float *cases, Window &window) {
    for (int r = 0; r < m.risks; r++) window.steep[r] = 1.0, window.level[r] = 0.0;
    for (int g = 0; g < m.subgroups; g++) {
        const double x = double(cases[m.hat_column[g]]);
        const double rise = (x - m.hat_left[g]) / (m.hat_top[g] - m.hat_left[g]);
        const double fall = (m.hat_right[g] - x) / (m.hat_right[g] - m.hat_top[g]);
        double in = rise < fall ? rise : fall;
        in = in < 0.0 ? 0.0 : in > 1.0 ? 1.0 : in;
        for (int r = 0; r < m.risks; r++) {
            window.steep[r] += in * m.tilt[r * m.subgroups + g];
            window.level[r] += in * m.shift[r * m.subgroups + g];
        }
    }
}

// Calibrated log-odds of a risk, of what network and trees say: Platt's, bent at the knots, leant to
// the patient's subgroups.
double calibrated(const Model &m, const Window &window, int risk, double network, double trees) {
    const double raw = m.blend_network[risk] * network + m.blend_trees[risk] * trees;
    const double x = raw * m.slope[risk] + m.intercept[risk];
    const double bent = x + between(x, m.curve_from + risk * m.bins, m.curve_by + risk * m.bins, m.bins);
    return bent * window.steep[risk] + window.level[risk];
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

bool grown(const Model &m, int voice) { return m.trees_at[voice] < m.trees_at[voice + 1]; }

bool grown_of(const Model &m, int risk) {
    for (int kind = 0; kind < KINDS; kind++)
        if (grown(m, kind * (m.risks + 1) + risk)) return true;
    return false;
}

// What a risk's voice counts for a row that is so like the second hospital's. Likeness and what trees
// say are whole steps, few enough for a double: products and sums are exact.
double counts(int kind, double like) { return kind == 0 ? 1.0 : kind == 1 ? 1.0 - like : like; }

// Trees of every risk, of windows that are asked and binned.
void trees(const Model &m, int count, Room &room) {
    int32_t said[ABREAST];
    const int which = m.risks;
    if (grown(m, which)) trees_of(m, which, room.bins, said);
    for (int i = 0; i < count; i++) {
        Window &window = room.window[i];
        double like = 0.5 + (grown(m, which) ? said[i] * m.leaf_step : 0.0) / (2.0 * m.sure);
        like = like < 0.0 ? 0.0 : like > 1.0 ? 1.0 : like;
        window.like = std::nearbyint(like / m.grain) * m.grain;
        for (int r = 0; r < m.risks; r++) window.trees[r] = 0.0;
    }
    for (int kind = 0; kind < KINDS; kind++)
        for (int r = 0; r < m.risks; r++) {
            const int voice = kind * (m.risks + 1) + r;
            if (!grown(m, voice)) continue;
            trees_of(m, voice, room.bins, said);
            for (int i = 0; i < count; i++)
                room.window[i].trees[r] +=
                    counts(kind, room.window[i].like) * (said[i] * m.leaf_step);
        }
}

// Trees of each window's leading risk without each signal that is there. Variants of all windows
// that have the risk in common stand abreast.
void trees_without(const Model &m, int count, Room &room) {
    int32_t said[ABREAST];
    for (int r = 0; r < m.risks; r++) {
        int waiting = 0;
        auto flush = [&] {
            without(m, room.bins, room.variant, waiting, room.less);
            for (int kind = 0; kind < KINDS; kind++) {
                const int voice = kind * (m.risks + 1) + r;
                if (!grown(m, voice)) continue;
                trees_of(m, voice, room.less, said);
                for (int i = 0; i < waiting; i++)
                    *room.to[i] += counts(kind, room.window[room.variant[i].lane].like) *
                                   (said[i] * m.leaf_step);
            }
            waiting = 0;
        };
        for (int i = 0; i < count; i++) {
            Window &window = room.window[i];
            if (window.leading != r) continue;
            for (int j = 0; j < window.heard.known; j++) {
                window.without[j] = 0.0;
                if (!grown_of(m, r)) continue;
                room.variant[waiting] = {i, window.heard.signal[j], &window.asked};
                room.to[waiting++] = &window.without[j];
                if (waiting == ABREAST) flush();
            }
        }
        if (waiting) flush();
    }
}

// Risks of one window, their bounds, and which is leading.
void risks(const Model &m, Window &window, int64_t row, const Answer &out) {
    double lead = -1e300;
    for (int r = 0; r < m.risks; r++) {
        const double log_odds = window.log_odds[r] =
            calibrated(m, window, r, double(window.heard.mixed[0][r]), window.trees[r]);
        if (log_odds - m.limit[r] > lead) lead = log_odds - m.limit[r], window.leading = r;
        // Bounds: half-width by the calibrated risk, wider where the window is novel.
        double half = between(log_odds, m.bound_knot + r * m.bins, m.bound_width + r * m.bins, m.bins);
        half *= 1.0 + m.widen * double(window.heard.novelty);
        const int64_t cell = row * m.risks + r;
        out.log_odds[cell] = log_odds;
        out.p[cell] = sigmoid(log_odds);
        out.low[cell] = sigmoid(log_odds - half);
        out.high[cell] = sigmoid(log_odds + half);
        out.positive[cell] = out.p[cell] >= m.threshold[r];
    }
    double sum = 0.0;
    for (int i = 0; i < EXPERTS; i++) sum += double(window.heard.share[i]);
    for (int i = 0; i < EXPERTS; i++)
        out.share[row * EXPERTS + i] = double(window.heard.share[i]) / sum;
    out.novelty[row] = double(window.heard.novelty);
}

// The strongest effects on the leading risk.
void drivers(const Model &m, const Window &window, int64_t row, const Answer &out) {
    const Heard &heard = window.heard;
    const int risk = window.leading;
    double effect[MAX_SIGNALS];
    for (int j = 0; j < heard.known; j++)
        effect[j] = window.log_odds[risk] -
                    calibrated(m, window, risk, double(heard.mixed[j + 1][risk]), window.without[j]);
    bool taken[MAX_SIGNALS] = {};
    for (int k = 0; k < m.drivers; k++) {
        int best = -1;
        for (int j = 0; j < heard.known; j++)
            if (!taken[j] && (best < 0 || std::fabs(effect[j]) > std::fabs(effect[best]))) best = j;
        const int64_t cell = row * m.drivers + k;
        if (best >= 0) taken[best] = true;
        out.driver[cell] = int16_t(best < 0 ? -1 : heard.signal[best]);
        out.effect[cell] = best < 0 ? 0.0 : effect[best];
    }
}

bool fits(const Model &m) {
    return m.signals <= MAX_SIGNALS && m.vitals <= MAX_VITALS && m.risks <= MAX_RISKS &&
           m.flat + m.groups * m.terms <= MAX_FLAT && m.terms <= MAX_TERMS &&
           m.columns <= MAX_COLUMNS && m.risks * EXPERTS <= PAD && m.width <= MAX_WIDTH &&
           m.inner <= MAX_INNER;
}

}  // namespace
}  // namespace vitalstream

#define PUBLIC __attribute__((visibility("default")))

extern "C" {

// Sizes of the structures, so that the caller's idea of them is checked.
PUBLIC int64_t vitalstream_sizes(int which) {
    using namespace vitalstream;
    return which == 0   ? sizeof(Model)
           : which == 1 ? sizeof(Batch)
           : which == 2 ? sizeof(Answer)
                        : sizeof(Branch);
}

// Rows `begin` to `end` of a batch. Returns 0, or 1 where a size is beyond what the engine has.
PUBLIC int vitalstream_predict(const vitalstream::Model *model, const vitalstream::Batch *batch,
                               const vitalstream::Answer *answer, int32_t begin, int32_t end) {
    using namespace vitalstream;
    const Model &m = *model;
    if (!fits(m) || batch->bins > MAX_BINS || batch->minute_bins > MAX_BINS) return 1;
    static thread_local Room room;
    for (int first = begin; first < end; first += ABREAST) {
        const int count = end - first < ABREAST ? end - first : ABREAST;
        for (int i = 0; i < count; i++) {
            Window &window = room.window[i];
            const float *cases = batch->cases + int64_t(first + i) * m.cases;
            features(m, *batch, first + i, room.seen);
            network(m, room.seen, cases, window.heard);
            belong(m, cases, window);
            if (!m.trees) continue;
            ask(m, room.seen, cases, window.asked);
            bin(m, window.asked, i, room.bins);
        }
        trees(m, count, room);
        for (int i = 0; i < count; i++) risks(m, room.window[i], first + i, *answer);
        trees_without(m, count, room);
        for (int i = 0; i < count; i++) drivers(m, room.window[i], first + i, *answer);
    }
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

// What trees say of features in the form of `vitalstream_features`, [B, risks], and what they would
// say had a signal never been measured, [B, signals, risks].
PUBLIC int vitalstream_trees(const vitalstream::Model *model, int32_t size, const float *signals,
                             const float *minutes, const float *cases, double *said, double *less) {
    using namespace vitalstream;
    const Model &m = *model;
    if (!fits(m)) return 1;
    static thread_local Room room;
    for (int first = 0; first < size; first += ABREAST) {
        const int count = size - first < ABREAST ? size - first : ABREAST;
        for (int i = 0; i < count; i++, cases += m.cases) {
            Seen &seen = room.seen;
            Window &window = room.window[i];
            for (int s = 0; s < m.signals; s++)
                for (int d = 0; d < D; d++) seen.signal[d][s] = *signals++;
            for (int v = 0; v < m.vitals; v++)
                for (int e = 0; e < E; e++) seen.minute[e][v] = *minutes++;
            window.heard.known = 0;
            for (int s = 0; s < m.signals; s++)
                if (seen.signal[1][s] < 0.5f) window.heard.signal[window.heard.known++] = s;
            ask(m, seen, cases, window.asked);
            bin(m, window.asked, i, room.bins);
        }
        trees(m, count, room);
        for (int r = 0; r < m.risks; r++) {
            for (int i = 0; i < count; i++) room.window[i].leading = r;
            trees_without(m, count, room);
            for (int i = 0; i < count; i++) {
                const Window &window = room.window[i];
                double *to = less + int64_t(first + i) * m.signals * m.risks + r;
                for (int s = 0; s < m.signals; s++) to[s * m.risks] = window.trees[r];
                for (int j = 0; j < window.heard.known; j++)
                    to[window.heard.signal[j] * m.risks] = window.without[j];
                said[int64_t(first + i) * m.risks + r] = window.trees[r];
            }
        }
    }
    return 0;
}
}
