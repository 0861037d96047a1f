import { describe, expect, it } from "vitest";

import { duration, freshness, number, percent, signalValue } from "../src/format";
import { stepFor, summary, withGaps } from "../src/series";

describe("numbers", () => {
  it("never claim certainty", () => {
    expect([0, 0.004, 0.345, 0.999, 1].map(percent)).toEqual(["<1 %", "<1 %", "35 %", ">99 %", ">99 %"]);
  });

  it("carry the decimals their size deserves", () => {
    expect([7.384, 82, 123.4, 12.34, -0.001].map((value) => number(value))).toEqual([
      "7.38",
      "82",
      "123",
      "12.3",
      "0.00",
    ]);
    expect(number(null)).toBe("–");
  });

  it("are said in bedside words", () => {
    expect(signalValue("acvpu", 2)).toBe("Voice");
    expect(signalValue("on_oxygen", 1)).toBe("yes");
    expect(signalValue("temp", 37)).toBe("37.0");
    expect(signalValue("spo2", 96.6)).toBe("97");
  });
});

describe("ages", () => {
  it("are given in their largest unit", () => {
    expect([4200, 125_000, 3 * 3_600_000, 72 * 3_600_000].map(duration)).toEqual(["4 s", "2 min", "3 h", "3 d"]);
  });

  it("weigh more for a vital sign than for a laboratory value", () => {
    expect(freshness("hr", 10 * 60_000)).toBe("old");
    expect(freshness("lactate", 10 * 60_000)).toBe("fresh");
  });
});

describe("a trend", () => {
  it("is broken where nothing was measured", () => {
    const columns = withGaps([[0, 1, 0, 2], [60_000, 1, 0, 2], [300_000, 1, 0, 2]], 60_000);
    expect(columns[0]).toEqual([0, 60, 120, 300]);
    expect(columns[1]).toEqual([1, 1, null, 1]);
  });

  it("has a few hundred points in every range", () => {
    for (const hours of [1, 6, 24, 72]) expect((hours * 3600) / stepFor(hours)).toBeLessThan(400);
  });

  it("is said in words for those who do not see it", () => {
    expect(summary("Heart rate", "/min", [[0, 80, 60, 90]], 6)).toBe(
      "Heart rate, last 6 h: latest 80 /min, lowest 60, highest 90",
    );
  });
});
