// Boosted trees of many rows at once: models/trees.py, laid out by models/native/forest.py.
//
// A row stands in a lane of a byte. Every inner node of a tree is asked of all lanes, children first,
// and hands up the leaf that its side chose: no lane waits for another's way, and no jump depends on
// a patient.
#include <cstring>

#include "engine.hpp"

namespace vitalstream {
namespace {

typedef int8_t bytes __attribute__((vector_size(ABREAST)));

template <typename Vector>
inline Vector load(const void *from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

template <typename Vector>
inline void store(void *to, Vector x) {
    std::memcpy(to, &x, sizeof x);
}

// Adds what each lane's leaf says.
inline void add(const int32_t *leaf, int leaves, bytes chosen, int32_t *said) {
    alignas(64) uint8_t index[ABREAST];
    store(index, chosen);
#if defined(__AVX512F__)
    if (leaves <= 2 * LANES) {  // two registers hold all leaves
        const auto low = load<__m512i>(leaf), high = load<__m512i>(leaf + leaves - LANES);
        for (int at = 0; at < ABREAST; at += LANES) {
            const auto which = _mm512_maskz_cvtepu8_epi32(-1, load<__m128i>(index + at));
            const auto value = (ints)_mm512_permutex2var_epi32(low, which, high);
            store(said + at, load<ints>(said + at) + value);
        }
        return;
    }
#endif
    (void)leaves;
    for (int i = 0; i < ABREAST; i++) said[i] += leaf[index[i]];
}

}  // namespace

void bin(const Model &m, const Asked &asked, int lane, Bins &bins) {
    for (int at = 0; at < m.columns; at += PAD) {
        const float *cut = m.cut + int64_t(m.cut_at[at / PAD]) * PAD;
        const float *end = m.cut + int64_t(m.cut_at[at / PAD + 1]) * PAD;
        alignas(64) float x[PAD];
        alignas(64) int32_t count[PAD];
        for (int i = 0; i < PAD; i++) {
            const int feature = m.column_feature[at + i];
            x[i] = asked.x[feature < 0 ? 0 : feature];
        }
        for (int part = 0; part < PAD; part += LANES) {
            const floats value = load<floats>(x + part);
            ints above = ints{} + 128;
            for (const float *row = cut + part; row < end; row += PAD)
                above += value > load<floats>(row);
            store(count + part, above);
        }
        for (int i = 0; i < PAD; i++) bins.of[at + i][lane] = int8_t(-count[i]);
    }
}

void without(const Model &m, const Bins &bins, const Variant *variants, int count, Bins &out) {
    // Variants of a row stand side by side.
    bytes mine[ABREAST];
    int row[ABREAST], rows = 0;
    for (int i = 0; i < count; i++) {
        if (i == 0 || variants[i].lane != variants[i - 1].lane) {
            row[rows] = variants[i].lane;
            mine[rows++] = bytes{};
        }
        mine[rows - 1][i] = -1;
    }
    for (int c = 0; c < m.columns; c++) {
        bytes x = bytes{};
        for (int r = 0; r < rows; r++) x = mine[r] ? bytes{} + bins.of[c][row[r]] : x;
        store(out.of[c], x);
    }
    for (int i = 0; i < count; i++) {
        const int signal = variants[i].signal;
        for (int at = m.signal_at[signal]; at < m.signal_at[signal + 1]; at++)
            out.of[m.signal_column[at]][i] = m.column_absent[m.signal_column[at]];
    }
    for (int s = 0; s < m.sum_columns; s++) {
        const int c = m.sum_column[s], sum = m.column_feature[c] - m.flat;
        const uint64_t group = m.group[sum / m.terms];
        const float *cut = m.cut + int64_t(m.cut_at[c / PAD]) * PAD + c % PAD;
        for (int i = 0; i < count; i++) {
            const int signal = variants[i].signal;
            if (!(group >> signal & 1)) continue;
            const Asked &asked = *variants[i].asked;
            const float x = asked.x[m.flat + sum] - asked.part[sum % m.terms][signal];
            // Parts are not negative: without one a sum is not larger, and mostly not much smaller.
            int bin = out.of[c][i] + 128;
            while (bin > 0 && x <= cut[(bin - 1) * PAD]) bin--;
            out.of[c][i] = int8_t(bin - 128);
        }
    }
}

void trees_of(const Model &m, int voice, const Bins &bins, int32_t *said) {
    alignas(64) int8_t place[MAX_PLACES][ABREAST];
    alignas(64) int32_t sum[ABREAST] = {};
    for (int leaf = 0; leaf < m.leaves; leaf++) std::memset(place[leaf], leaf, ABREAST);
    for (int tree = m.trees_at[voice]; tree < m.trees_at[voice + 1]; tree++) {
        const Branch *branch = m.branch + m.branch_at[tree], *end = m.branch + m.branch_at[tree + 1];
        int8_t(*to)[ABREAST] = place + m.leaves;
        bytes chosen = bytes{};
        for (; branch < end; branch++, to++) {
            int32_t four;
            std::memcpy(&four, branch->limit, sizeof four);
            const bytes limit = (bytes)(ints{} + four);
            const bytes x = load<bytes>(bins.of[branch->column]);
            chosen = x > limit ? load<bytes>(place[branch->above]) : load<bytes>(place[branch->below]);
            store(to, chosen);
        }
        add(m.leaf + int64_t(tree) * m.leaves, m.leaves, chosen, sum);
    }
    std::memcpy(said, sum, sizeof sum);
}

}  // namespace vitalstream
