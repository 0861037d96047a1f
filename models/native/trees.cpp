// Boosted trees over flat features: models/trees.py.
#include "engine.hpp"

namespace vitalstream {
namespace {

// The leaf below `node`; negative numbers are leaves (~n).
inline int leaf_below(const Model &m, int64_t base, int node, const float *x) {
    while (node >= 0) {
        const int64_t at = base + node;
        node = x[m.tree_feature[at]] <= m.tree_threshold[at] ? m.tree_left[at] : m.tree_right[at];
    }
    return ~node;
}

// The same, with every feature of one signal as if it had never been measured.
inline int leaf_without(const Model &m, int64_t base, int node, const float *x, int signal) {
    while (node >= 0) {
        const int64_t at = base + node;
        const int feature = m.tree_feature[at];
        const float value = m.tree_signal[feature] == signal ? m.tree_absent[feature] : x[feature];
        node = value <= m.tree_threshold[at] ? m.tree_left[at] : m.tree_right[at];
    }
    return ~node;
}

}  // namespace

double trees_of(const Model &m, int risk, const float *x) {
    double sum = 0.0;
    for (int tree = m.trees_at[risk]; tree < m.trees_at[risk + 1]; tree++)
        sum += double(m.tree_leaf[int64_t(tree) * m.leaves +
                                  leaf_below(m, int64_t(tree) * m.nodes, 0, x)]);
    return sum;
}

void tree_effects(const Model &m, int risk, const float *x, double *gain) {
    for (int tree = m.trees_at[risk]; tree < m.trees_at[risk + 1]; tree++) {
        const int64_t base = int64_t(tree) * m.nodes;
        const float *leaf = m.tree_leaf + int64_t(tree) * m.leaves;
        // Only a signal that was asked on the way can change the leaf, and from there on alone.
        const double said = double(leaf[leaf_below(m, base, 0, x)]);
        uint64_t asked = 0;
        for (int node = 0; node >= 0;) {
            const int64_t at = base + node;
            const int feature = m.tree_feature[at], signal = m.tree_signal[feature];
            const bool left = x[feature] <= m.tree_threshold[at];
            if (signal >= 0 && !(asked >> signal & 1)) {
                asked |= uint64_t(1) << signal;
                gain[signal] += said - double(leaf[leaf_without(m, base, node, x, signal)]);
            }
            node = left ? m.tree_left[at] : m.tree_right[at];
        }
    }
}

}  // namespace vitalstream
