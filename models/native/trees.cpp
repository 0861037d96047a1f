// Boosted trees over flat features: models/trees.py.
#include "engine.hpp"

namespace vitalstream {
namespace {

constexpr int ABREAST = 8;  // walks at once, so that one's loads hide behind the others'
constexpr int MAX_WALKS = 4096;

// One step of a walk, none where it has ended at a leaf (~n).
inline int step(const Node *nodes, int at, const float *x) {
    const Node &node = nodes[at < 0 ? 0 : at];
    const int below = x[node.feature] <= node.threshold ? node.left : node.right;
    return at < 0 ? at : below;
}

// A walk from a node, with every feature of one signal as if it had never been measured.
struct Walk {
    int32_t tree;
    int16_t at, signal;
};

inline int step_without(const Model &m, const Walk &walk, const Asked &asked) {
    const Node &node = m.tree_node[int64_t(walk.tree) * m.nodes + (walk.at < 0 ? 0 : walk.at)];
    float value = asked.x[node.feature];
    if (node.feature < m.flat) {
        if (m.tree_signal[node.feature] == walk.signal) value = m.tree_absent[node.feature];
    } else {
        const int sum = node.feature - m.flat;
        if (m.group[sum / m.terms] >> walk.signal & 1)
            value -= asked.part[sum % m.terms][walk.signal];
    }
    const int below = value <= node.threshold ? node.left : node.right;
    return walk.at < 0 ? walk.at : below;
}

// Ends the walks and takes what they say from their signals' gain.
void finish(const Model &m, Walk *walks, int count, const Asked &asked, double *gain) {
    for (int begin = 0; begin < count; begin += ABREAST) {
        const int size = count - begin < ABREAST ? count - begin : ABREAST;
        Walk *some = walks + begin;
        for (bool going = true; going;) {
            going = false;
            for (int i = 0; i < size; i++) {
                some[i].at = int16_t(step_without(m, some[i], asked));
                going |= some[i].at >= 0;
            }
        }
        for (int i = 0; i < size; i++)
            gain[some[i].signal] -=
                double(m.tree_leaf[int64_t(some[i].tree) * m.leaves + ~some[i].at]);
    }
}

}  // namespace

double trees_of(const Model &m, int risk, const Asked &asked) {
    const float *x = asked.x;
    // Leaves are multiples of a power of two, so the sum is exact in whatever order.
    double sum = 0.0;
    const int end = m.trees_at[risk + 1];
    for (int tree = m.trees_at[risk]; tree < end; tree += ABREAST) {
        const int size = end - tree < ABREAST ? end - tree : ABREAST;
        const Node *nodes = m.tree_node + int64_t(tree) * m.nodes;
        int at[ABREAST] = {};
        if (size == ABREAST) {
            for (bool going = true; going;) {
                int alive = -1;
                for (int i = 0; i < ABREAST; i++) {
                    at[i] = step(nodes + i * m.nodes, at[i], x);
                    alive &= at[i];
                }
                going = alive >= 0;  // the sign stays where all are negative
            }
        } else {
            for (int i = 0; i < size; i++)
                while (at[i] >= 0) at[i] = step(nodes + i * m.nodes, at[i], x);
        }
        for (int i = 0; i < size; i++)
            sum += double(m.tree_leaf[int64_t(tree + i) * m.leaves + ~at[i]]);
    }
    return sum;
}

void tree_effects(const Model &m, int risk, const Asked &asked, double *gain) {
    static thread_local Walk walks[MAX_WALKS];
    const float *x = asked.x;
    int count = 0;
    for (int tree = m.trees_at[risk]; tree < m.trees_at[risk + 1]; tree++) {
        const Node *nodes = m.tree_node + int64_t(tree) * m.nodes;
        if (count > MAX_WALKS - MAX_SIGNALS) {
            finish(m, walks, count, asked, gain);
            count = 0;
        }
        // A signal changes the leaf only from where the path would turn the other way without it.
        uint64_t same = asked.there;
        int at = 0;
        const int first = count;
        while (at >= 0) {
            const Node &node = nodes[at];
            const bool below = x[node.feature] <= node.threshold;
            const int next = below ? node.left : node.right, other = below ? node.right : node.left;
            auto part = [&](int signal) {
                same &= ~(uint64_t(1) << signal);
                walks[count++] = {tree, int16_t(other), int16_t(signal)};
            };
            if (node.feature < m.flat) {
                const int signal = m.tree_signal[node.feature];
                if (signal >= 0 && same >> signal & 1 &&
                    (m.tree_absent[node.feature] <= node.threshold) != below)
                    part(signal);
            } else if (!below) {  // parts are not negative: without one a sum is not larger
                const int sum = node.feature - m.flat;
                const float *parts = asked.part[sum % m.terms];
                for (uint64_t rest = same & m.group[sum / m.terms]; rest; rest &= rest - 1) {
                    const int signal = __builtin_ctzll(rest);
                    if (x[node.feature] - parts[signal] <= node.threshold) part(signal);
                }
            }
            at = next;
        }
        const double said = double(m.tree_leaf[int64_t(tree) * m.leaves + ~at]);
        for (int i = first; i < count; i++) gain[walks[i].signal] += said;
    }
    finish(m, walks, count, asked, gain);
}

}  // namespace vitalstream
