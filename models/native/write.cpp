// Numbers of a batch as JSON: the part of a prediction message that the model says.
//
// Numbers are rounded to a fixed count of decimals, half to even as numpy does, and written as that
// decimal: parsed again they are the very doubles that numpy's rounding gives.
#include <cmath>
#include <cstring>

#include "engine.hpp"

namespace vitalstream {
namespace {

struct Text {
    char *at;

    void bytes(const char *from, size_t size) {
        std::memcpy(at, from, size);
        at += size;
    }
    template <size_t N>
    void say(const char (&words)[N]) { bytes(words, N - 1); }

    void whole(uint64_t x) {
        char digits[20];
        int count = 0;
        do digits[count++] = char('0' + x % 10);
        while (x /= 10);
        while (count) *at++ = digits[--count];
    }

    // x rounded to `decimals` places, at least one of them written.
    void number(double x, int decimals) {
        static const double power[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6};
        const double scaled = std::nearbyint(x * power[decimals]);
        int64_t units = int64_t(scaled);
        if (units < 0) {
            *at++ = '-';
            units = -units;
        }
        const uint64_t one = uint64_t(power[decimals]);
        whole(uint64_t(units) / one);
        *at++ = '.';
        char digits[8];
        uint64_t rest = uint64_t(units) % one;
        for (int i = decimals - 1; i >= 0; i--, rest /= 10) digits[i] = char('0' + rest % 10);
        int keep = decimals;
        while (keep > 1 && digits[keep - 1] == '0') keep--;
        bytes(digits, size_t(keep));
    }
};

constexpr int DECIMALS = 6;
constexpr int VALUE_DECIMALS = 4;

struct Names {
    const char *text;
    const int32_t *at;  // [count + 1]

    void say(Text &to, int which) const {
        to.bytes(text + at[which], size_t(at[which + 1] - at[which]));
    }
};

}  // namespace

// Names are JSON already: `"hr":` as a key, `"hr"` as a value.
struct Wording {
    int32_t risks, experts, scores, score_inputs, signals, drivers;
    Names risk, expert, score, score_input, signal, signal_value;
};

struct Said {
    const uint8_t *speaks;          // [B]
    const double *p, *low, *high;   // [B, risks]
    const uint8_t *positive;        // [B, risks]
    const double *share, *novelty;  // [B, experts], [B]
    const double *score;            // [B, scores], NaN where nothing is known
    const uint32_t *missing;        // [B, scores]
    const float *value;             // [B, signals]
    const int64_t *age_ms;          // [B, signals], -1 where none
    const int16_t *driver;          // [B, drivers], -1 where fewer
    const double *effect;           // [B, drivers]
};

namespace {

void row_as_text(const Wording &w, const Said &said, int64_t row, Text &to) {
    if (said.speaks[row]) to.say("\"status\":\"ok\",\"risks\":{");
    else to.say("\"status\":\"warming_up\",\"risks\":{");
    for (int r = 0; said.speaks[row] && r < w.risks; r++) {
        const int64_t cell = row * w.risks + r;
        if (r) to.say(",");
        w.risk.say(to, r);
        to.say("{\"p\":");
        to.number(said.p[cell], DECIMALS);
        to.say(",\"low\":");
        to.number(said.low[cell], DECIMALS);
        to.say(",\"high\":");
        to.number(said.high[cell], DECIMALS);
        if (said.positive[cell]) to.say(",\"positive\":true}");
        else to.say(",\"positive\":false}");
    }
    to.say("},\"experts\":{");
    for (int e = 0; e < w.experts; e++) {
        if (e) to.say(",");
        w.expert.say(to, e);
        to.number(said.share[row * w.experts + e], DECIMALS);
    }
    to.say("},\"novelty\":");
    to.number(said.novelty[row], DECIMALS);
    to.say(",\"scores\":{");
    for (int s = 0; s < w.scores; s++) {
        const int64_t cell = row * w.scores + s;
        if (s) to.say(",");
        w.score.say(to, s);
        to.say("{\"value\":");
        if (std::isnan(said.score[cell])) to.say("null");
        else to.number(said.score[cell], DECIMALS);
        to.say(",\"missing\":[");
        bool any = false;
        for (int i = 0; i < w.score_inputs; i++) {
            if (!(said.missing[cell] >> i & 1)) continue;
            if (any) to.say(",");
            w.score_input.say(to, i);
            any = true;
        }
        to.say("]}");
    }
    to.say("},\"inputs\":{");
    bool any = false;
    for (int s = 0; s < w.signals; s++) {
        const int64_t cell = row * w.signals + s;
        if (said.age_ms[cell] < 0) continue;
        if (any) to.say(",");
        w.signal.say(to, s);
        to.say("{\"v\":");
        to.number(double(said.value[cell]), VALUE_DECIMALS);
        to.say(",\"age_ms\":");
        to.whole(uint64_t(said.age_ms[cell]));
        to.say("}");
        any = true;
    }
    to.say("},\"drivers\":[");
    any = false;
    for (int d = 0; d < w.drivers; d++) {
        const int64_t cell = row * w.drivers + d;
        if (said.driver[cell] < 0) continue;
        if (any) to.say(",");
        to.say("{\"signal\":");
        w.signal_value.say(to, said.driver[cell]);
        to.say(",\"effect\":");
        to.number(said.effect[cell], DECIMALS);
        to.say("}");
        any = true;
    }
    to.say("]");
}

}  // namespace
}  // namespace vitalstream

#define PUBLIC __attribute__((visibility("default")))

extern "C" {

PUBLIC int64_t vitalstream_write_sizes(int which) {
    return which == 0 ? sizeof(vitalstream::Wording) : sizeof(vitalstream::Said);
}

// Most bytes that a row can take.
PUBLIC int64_t vitalstream_write_room(const vitalstream::Wording *w) {
    const auto all = [](const vitalstream::Names &names, int count) {
        return int64_t(names.at[count]);
    };
    // A number has 27 characters at most, its frame fewer than 64.
    const int64_t inputs = all(w->score_input, w->score_inputs) + w->score_inputs;
    return 256 + all(w->risk, w->risks) + w->risks * 160 + all(w->expert, w->experts) +
           w->experts * 32 + all(w->score, w->scores) + w->scores * (64 + inputs) +
           all(w->signal, w->signals) + w->signals * 96 +
           w->drivers * (64 + all(w->signal_value, w->signals));
}

// Text of all rows; row i ends at end[i]. Numbers are finite and below 10^12 in size.
PUBLIC void vitalstream_write(const vitalstream::Wording *w, const vitalstream::Said *said,
                              int32_t size, char *out, int64_t *end) {
    vitalstream::Text to{out};
    for (int64_t row = 0; row < size; row++) {
        vitalstream::row_as_text(*w, *said, row, to);
        end[row] = to.at - out;
    }
}
}
