// One call from gathered windows to numbers on a CPU. The plain meaning of every step is in Python:
// models/features.py, novelty.py, network.py, moe.py, trees.py, calibration.py, explain.py.
//
// Features are made in features.cpp, which is compiled without fused multiply-add: its bits are those
// of the torch reference. The network (network.cpp) may fuse; it meets the reference within rounding.
// Features and network of a row are worked out by themselves, by the same instructions wherever it
// stands in a batch. Trees read many rows at once, each in a lane; their sums are exact.
#pragma once
#include <cstdint>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace vitalstream {

// A vector is as wide as the machine's registers: the compiler makes wider ones slow.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

constexpr int PAD = 16;  // what widths are padded to, for any machine
constexpr int MEMORIES = 3;
constexpr int D = 10;  // features of a signal
constexpr int E = 4;   // features of a vital's minutes
constexpr int EXPERTS = 4;
constexpr int MAX_SIGNALS = 64;
constexpr int MAX_VITALS = 16;
constexpr int MAX_BINS = 256;
constexpr int MAX_RISKS = 4;
constexpr int KINDS = 3;  // whom trees speak for
constexpr int MAX_FLAT = 2048;  // of all that trees ask
constexpr int MAX_TERMS = 32;   // of a group's sums
constexpr int MAX_WIDTH = 2048;  // of the first layer
constexpr int MAX_INNER = 1024;
constexpr int MAX_COLUMNS = 4096;
constexpr int MAX_PLACES = 256;  // leaves and inner nodes of a tree
constexpr int ABREAST = 4 * LANES;  // windows that trees read at once: a vector of bytes
constexpr float CLIP = 6.0f;

inline int padded(int n) { return (n + PAD - 1) / PAD * PAD; }

// An inner node of a tree: whose leaf it hands up where a bin is above the limit, and where not.
struct Branch {
    int8_t limit[4];  // four times the same: a vector of it is one load
    uint16_t column;
    uint8_t below, above;  // places: leaves, then the inner nodes as they stand
};

// Everything that does not change between calls. All pointers stay the caller's.
struct Model {
    // Sizes: signals, vitals, case features, risks.
    int32_t signals, vitals, cases, risks;
    // Features.
    const float *typical, *centre, *spread;  // [signals]
    const uint8_t *skewed;                   // [signals]
    const int32_t *vital_at;                 // [vitals], index of each among the signals
    float decay[MEMORIES];
    float age_ms;
    float absent[D];
    // First layer: columns of the experts side by side, then the gate's, each padded to PAD.
    int32_t width, gate_at, gate_width;
    const float *base;        // [width]: bias and what signals say that were never measured
    const float *of_signals;  // [signals, D, width]
    const float *of_minutes;  // [vitals, E, width]
    const float *of_case;     // [cases, width]
    // Gate.
    const float *gate, *gate_bias;  // [gate_width, EXPERTS], [EXPERTS]
    float always, steep;
    // Experts: first[i] .. the i-th's columns of the hidden units and of the inner ones.
    int32_t hidden_at[EXPERTS], hidden_of[EXPERTS], inner_at[EXPERTS], inner_of[EXPERTS];
    int32_t inner;                 // all inner units
    const float *body[EXPERTS];    // [hidden_of, inner_of]
    const float *body_bias;        // [inner]
    const float *heads;            // [inner, PAD]: expert by risk, the rest 0
    const float *heads_bias;       // [PAD]
    // Novelty.
    int32_t knots;
    const float *knot, *pattern_knot, *level;  // [knots]
    int32_t pattern;                            // numbers of the pattern: newest, memory, missing
    const float *pattern_centre;                // [pattern]
    const float *pattern_whiten;                // [pattern, padded pattern]
    // Trees, sorted by voice: those of voice v are trees_at[v] .. trees_at[v + 1]. Voices: of all
    // patients a risk's, and one that tells two hospitals apart; then each risk's of patients like the
    // first hospital's, and like the second's (models/trees.py).
    int32_t trees, leaves;
    int32_t trees_at[KINDS * (MAX_RISKS + 1) + 1];
    const Branch *branch;        // of one tree after the other, children before their parents
    const int32_t *branch_at;    // [trees + 1]
    const int32_t *leaf;         // [trees, leaves], in steps
    double leaf_step;
    double sure, grain;  // log-odds that tell a hospital for sure; likeness is a multiple of it
    // What trees ask, by column: a feature's bin is how many of its thresholds are below it.
    int32_t columns;                // a multiple of PAD
    const int32_t *column_feature;  // [columns], -1 for padding
    const float *cut;               // [.., PAD] for PAD columns after the other, rising
    const int32_t *cut_at;          // [columns / PAD + 1], rows
    const int8_t *column_absent;    // [columns], bin of an absent signal
    const int32_t *signal_at;       // [signals + 1]
    const int32_t *signal_column;   // columns of each signal's own features
    int32_t sum_columns;
    const int32_t *sum_column;      // columns of sums
    // Beside flat features trees ask sums over groups of signals.
    int32_t flat, groups, terms;
    const uint64_t *group;      // [groups], a bit a signal
    const int32_t *term_kind;   // [terms], see Term
    const int32_t *term_of;     // [terms], feature of a signal
    const float *term_limit;    // [terms]
    float term_step;
    // Calibration, [risks] or [risks, bins].
    int32_t bins;
    double widen;
    const double *blend_network, *blend_trees, *slope, *intercept, *threshold, *limit;
    const double *curve_from, *curve_by;     // Platt's log-odds at the knots, what the curve adds
    const double *bound_knot, *bound_width;  // calibrated log-odds there, the bounds' half-width
    // Subgroups: hats over columns of the case; what each adds to slope and intercept, [risks, subgroups].
    int32_t subgroups;
    const int32_t *hat_column;
    const double *hat_left, *hat_top, *hat_right, *tilt, *shift;
    int32_t drivers;
};

// One batch, as gathered: B windows, T bins of the long scale, M of the short one.
struct Batch {
    int32_t size, bins, minute_bins;
    const float *hours;         // [B, T, signals]
    const float *minutes;       // [B, M, vitals]
    const float *newest;        // [B, signals]
    const int64_t *age_ms;      // [B, signals]
    const int32_t *length;      // [B]
    const float *cases;         // [B, cases]
};

struct Answer {
    double *p, *low, *high;      // [B, risks]
    uint8_t *positive;           // [B, risks]
    double *share;               // [B, EXPERTS]
    double *novelty;             // [B]
    int16_t *driver;             // [B, drivers]
    double *effect;              // [B, drivers]
    double *log_odds;            // [B, risks]
};

// Features of one window.
struct Seen {
    alignas(64) float signal[D][MAX_SIGNALS];
    alignas(64) float minute[E][MAX_VITALS];
};

// Features of row `row` of a batch.
void features(const Model &model, const Batch &batch, int row, Seen &seen);

enum Term { BELOW, BEYOND, LESS_THAN_ONE, SIZE };

// What trees ask of one window: flat features, then sums; and each signal's part of the sums' terms.
struct Asked {
    alignas(64) float x[MAX_FLAT];
    float part[MAX_TERMS][MAX_SIGNALS];  // of signals that are there
    uint64_t there;                      // a bit a signal
};

// All that trees ask, of features and case.
void ask(const Model &model, const Seen &seen, const float *cases, Asked &asked);

// What the network says of one window and of it without each signal that is there.
struct Heard {
    int known;                            // signals that are there
    int signal[MAX_SIGNALS];              // [known]
    float share[EXPERTS], novelty;
    float mixed[MAX_SIGNALS + 1][MAX_RISKS];  // of the window, then without each: log-odds
};

void network(const Model &model, const Seen &seen, const float *cases, Heard &heard);

// Bins of up to ABREAST windows, less 128: each has a lane.
struct Bins {
    alignas(64) int8_t of[MAX_COLUMNS][ABREAST];
};

// A window without one of the signals that are there.
struct Variant {
    int lane, signal;  // where its window is
    const Asked *asked;
};

// Bins of one window.
void bin(const Model &model, const Asked &asked, int lane, Bins &bins);

// Bins of variants of the windows in `bins`; a window's variants stand side by side.
void without(const Model &model, const Bins &bins, const Variant *variants, int count, Bins &out);

// What the trees of one voice say of each lane, in steps: [ABREAST].
void trees_of(const Model &model, int voice, const Bins &bins, int32_t *said);

}  // namespace vitalstream
