import { expect, test } from "vitest";

import { spanned } from "../src/evaluation";
import { ticks } from "../src/plots";

test("ticks are round and within the range", () => {
  expect(ticks(0, 1)).toEqual([0, 0.5, 1]);
  expect(ticks(-0.002, 0.0152)).toEqual([0, 0.005, 0.01, 0.015]);
  expect(ticks(0.003, 0.3, true)).toEqual([0.003, 0.01, 0.03, 0.1, 0.3]);
});

test("a figure is told with its interval, or as unknown", () => {
  expect(spanned({ value: 0.8312, low: 0.81, high: 0.85 })).toBe("0.831 (0.810 to 0.850)");
  expect(spanned({ value: -0.02, low: null, high: null }, 2)).toBe("−0.02");
  expect(spanned({ value: null, low: null, high: null })).toBe("–");
  expect(spanned(undefined)).toBe("–");
});
