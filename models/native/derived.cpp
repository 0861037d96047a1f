// What trees ask beside the network's features: models/derived.py.
#include <cmath>
#include <cstring>

#include "engine.hpp"

namespace vitalstream {
namespace {

// 0 for a signal that was never measured; a multiple of the step, so that sums are exact.
float term(const Model &m, int number, float x) {
    const float limit = m.term_limit[number];
    switch (m.term_kind[number]) {
        case BELOW: return x < limit ? 1.0f : 0.0f;
        case BEYOND: return std::fabs(x) > limit ? 1.0f : 0.0f;
        default: break;
    }
    const float size = m.term_kind[number] == LESS_THAN_ONE ? 1.0f - x : std::fabs(x);
    return std::floor(size * (1.0f / m.term_step) + 0.5f) * m.term_step;
}

}  // namespace

void ask(const Model &m, const Seen &seen, const float *cases, Asked &asked) {
    float *x = asked.x;
    for (int s = 0; s < m.signals; s++)
        for (int d = 0; d < D; d++) *x++ = seen.signal[d][s];
    for (int v = 0; v < m.vitals; v++)
        for (int e = 0; e < E; e++) *x++ = seen.minute[e][v];
    std::memcpy(x, cases, sizeof(float) * m.cases);
    x += m.cases;
    asked.there = 0;
    std::memset(x, 0, sizeof(float) * m.groups * m.terms);
    for (int s = 0; s < m.signals; s++) {
        if (!(seen.signal[1][s] < 0.5f)) continue;
        asked.there |= uint64_t(1) << s;
        for (int t = 0; t < m.terms; t++) {
            const float part = asked.part[t][s] = term(m, t, seen.signal[m.term_of[t]][s]);
            for (int g = 0; g < m.groups; g++)
                if (m.group[g] >> s & 1) x[g * m.terms + t] += part;
        }
    }
}

}  // namespace vitalstream
