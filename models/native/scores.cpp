// Bedside scores from compiled tables: models/scores says what they mean.
#include <cmath>
#include <cstdint>
#include <limits>

namespace vitalstream {

enum Kind : int32_t { BANDED, COUNTED, RATIO };

struct Score {
    int32_t kind, begin, end;  // its parts, its criteria, or its two inputs
};

// One row of a chart: points by band of value / step, rounded half up.
struct Part {
    double step;
    int32_t input, limits, bands, scale, oxygen;  // scale 0 and oxygen -1: whatever they are
};

// Met by any of its conditions.
struct Criterion {
    int32_t begin, end;
};

struct Condition {
    double limit;
    int32_t input, sign;  // <, <=, >, >=
};

struct Charts {
    int32_t scores, inputs, signals;
    int32_t acvpu, gcs, oxygen;  // among the inputs
    int32_t fio2;                // among the signals
    double air;
    const int32_t *signal;  // of each input
    const Score *score;
    const Part *part;
    const int64_t *limit;  // a part's limits[bands - 1], in steps
    const double *points;  // a part's points[bands], at limits + number of the part
    const Criterion *criterion;
    const Condition *condition;
};

namespace {

constexpr double NONE = std::numeric_limits<double>::quiet_NaN();
constexpr int MAX_INPUTS = 32;

bool holds(double x, int sign, double limit) {
    switch (sign) {
        case 0: return x < limit;
        case 1: return x <= limit;
        case 2: return x > limit;
        default: return x >= limit;
    }
}

// Every input from its own signal or from the one that stands in for it.
void known_of(const Charts &c, const float *value, double *known) {
    for (int i = 0; i < c.inputs; i++) known[i] = double(value[c.signal[i]]);
    const double gcs = known[c.gcs], acvpu = known[c.acvpu], fio2 = double(value[c.fio2]);
    if (std::isnan(acvpu))
        known[c.acvpu] = gcs > 14.5 ? 0.0 : gcs > 8.5 ? 2.0 : gcs > 3.5 ? 3.0 : gcs >= 0 ? 4.0 : NONE;
    if (std::isnan(gcs)) known[c.gcs] = acvpu < 0.5 ? 15.0 : acvpu >= 0.5 ? 14.0 : NONE;
    if (std::isnan(known[c.oxygen]))
        known[c.oxygen] = fio2 > c.air ? 1.0 : fio2 <= c.air ? 0.0 : NONE;
}

double banded(const Charts &c, const Score &score, const double *known, bool second,
              uint32_t &missing) {
    double total = 0.0;
    bool any = false;
    for (int at = score.begin; at < score.end; at++) {
        const Part &part = c.part[at];
        if (part.scale == 2 && !second) continue;
        const double x = known[part.input];
        if (std::isnan(x)) {
            missing |= uint32_t(1) << part.input;
            continue;
        }
        if (part.scale == 1 && second) continue;
        // Unknown oxygen reads the chart for air: the lower of the two.
        if (part.oxygen >= 0 && (known[c.oxygen] > 0) != (part.oxygen == 1)) continue;
        const double steps = std::floor(x / part.step + 0.5);
        const int64_t *limit = c.limit + part.limits;
        int band = 0;
        while (band < part.bands - 1 && double(limit[band]) < steps) band++;
        total += c.points[part.limits + at + band];
        any = true;
    }
    return any ? total : NONE;
}

double counted(const Charts &c, const Score &score, const double *known, uint32_t &missing) {
    double total = 0.0;
    bool any = false;
    for (int at = score.begin; at < score.end; at++) {
        const Criterion &criterion = c.criterion[at];
        bool met = false;
        uint32_t absent = 0;
        for (int i = criterion.begin; i < criterion.end; i++) {
            const Condition &condition = c.condition[i];
            const double x = known[condition.input];
            met |= holds(x, condition.sign, condition.limit);
            if (std::isnan(x)) absent |= uint32_t(1) << condition.input;
            else any = true;
        }
        if (!met) missing |= absent;
        total += met;
    }
    return any ? total : NONE;
}

}  // namespace
}  // namespace vitalstream

#define PUBLIC __attribute__((visibility("default")))

extern "C" {

PUBLIC int64_t vitalstream_score_sizes(int which) {
    using namespace vitalstream;
    const int64_t sizes[] = {sizeof(Charts), sizeof(Score), sizeof(Part), sizeof(Criterion),
                             sizeof(Condition)};
    return sizes[which];
}

// Scores and what each lacks, [size, scores], from the newest values [size, signals].
PUBLIC void vitalstream_scores(const vitalstream::Charts *charts, const float *value,
                               const uint8_t *second, int32_t size, double *out,
                               uint32_t *missing) {
    using namespace vitalstream;
    const Charts &c = *charts;
    double known[MAX_INPUTS];
    for (int64_t row = 0; row < size; row++) {
        known_of(c, value + row * c.signals, known);
        for (int s = 0; s < c.scores; s++) {
            const Score &score = c.score[s];
            uint32_t lacks = 0;
            double x;
            if (score.kind == BANDED) x = banded(c, score, known, second[row], lacks);
            else if (score.kind == COUNTED) x = counted(c, score, known, lacks);
            else {
                const double above = known[score.begin], below = known[score.end];
                x = above / (below > 0 ? below : NONE);
                if (std::isnan(above)) lacks |= uint32_t(1) << score.begin;
                if (std::isnan(below)) lacks |= uint32_t(1) << score.end;
            }
            out[row * c.scores + s] = x;
            missing[row * c.scores + s] = lacks;
        }
    }
}
}
