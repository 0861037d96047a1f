import { describe, expect, it } from "vitest";

import { compareAlerts, compareBeds, leading, newsworthy, thresholdsIn, urgency } from "../src/rank";
import type { Alert, Prediction } from "../src/types";
import { Ward } from "../src/ward";

const alert = (over: Partial<Alert>): Alert => ({
  id: "1",
  bed_id: "A-1",
  case_id: null,
  kind: "sepsis",
  priority: "high",
  state: "open",
  opened_ms: 1,
  updated_ms: 1,
  value: 0.2,
  threshold: 0.1,
  history: [],
  ...over,
});

const prediction = (over: Partial<Prediction>): Prediction => ({
  bed_id: "A-1",
  case_id: "c1",
  ts_ms: 1000,
  produced_ms: 1000,
  model: "m",
  model_version: "1",
  status: "ok",
  risks: {},
  experts: {},
  novelty: 0,
  scores: {},
  inputs: {},
  drivers: [],
  source: { partition: 0, offset: 5 },
  ...over,
});

const risk = (p: number, positive = false) => ({ p, low: p / 2, high: p * 2, positive });

describe("the order of the board", () => {
  it("puts a bed that waits for a person before every quiet one", () => {
    const calm = { name: "sepsis", p: 0.01, positive: false, relative: 0.5 };
    const levels = [
      urgency([alert({ state: "escalated" })], false, calm),
      urgency([alert({})], false, calm),
      urgency([alert({ priority: "medium", state: "escalated" })], false, calm),
      urgency([alert({ priority: "medium" })], false, calm),
      urgency([], false, { ...calm, positive: true }),
      urgency([alert({ priority: "low", kind: "silence" })], true, calm),
      urgency([alert({ state: "acknowledged" })], false, calm),
    ].map((found) => found.level);
    expect(levels).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it("never ranks a stale bed by a risk that is no longer live", () => {
    const lead = { name: "sepsis", p: 0.9, positive: true, relative: 9 };
    expect(urgency([], true, lead)).toEqual({ level: 5, step: -99 });
  });

  it("orders equal beds by name as a person counts", () => {
    const of = (bed_id: string) => ({ bed_id, urgency: { level: 6, step: 0 } });
    expect([of("A-10"), of("A-2")].sort(compareBeds).map((bed) => bed.bed_id)).toEqual(["A-2", "A-10"]);
  });
});

describe("the leading risk", () => {
  it("is the highest relative to its threshold, not the highest", () => {
    const said = prediction({ risks: { sepsis: risk(0.06, true), mortality: risk(0.2) } });
    expect(leading(said, { sepsis: 0.03, mortality: 0.4 })?.name).toBe("sepsis");
  });

  it("without thresholds is one that is positive", () => {
    const said = prediction({ risks: { sepsis: risk(0.06, true), mortality: risk(0.2) } });
    expect(leading(said, {})?.name).toBe("sepsis");
    expect(leading(prediction({}), {})).toBeNull();
  });

  it("reads thresholds wherever the card keeps them", () => {
    const risks = ["sepsis", "mortality"];
    expect(thresholdsIn({ a: { thresholds: { sepsis: 0.03 } } }, risks)).toEqual({ sepsis: 0.03 });
    expect(thresholdsIn({ risks: { mortality: { threshold: 0.4 } } }, risks)).toEqual({ mortality: 0.4 });
    expect(thresholdsIn(null, risks)).toEqual({});
  });
});

describe("alerts", () => {
  it("that wait come before those that were answered", () => {
    const answered = alert({ id: "a", state: "acknowledged" });
    const low = alert({ id: "b", priority: "low" });
    expect([answered, low].sort(compareAlerts).map((each) => each.id)).toEqual(["b", "a"]);
  });

  it("are told once to a screen reader, and again only when escalated", () => {
    expect(newsworthy(undefined, alert({}))).toBe(true);
    expect(newsworthy(alert({}), alert({ value: 0.3 }))).toBe(false);
    expect(newsworthy(alert({}), alert({ state: "escalated" }))).toBe(true);
    expect(newsworthy(undefined, alert({ priority: "medium" }))).toBe(false);
  });
});

describe("the ward", () => {
  it("never lets an older prediction replace a newer one, save for another case", () => {
    const ward = new Ward(() => 2000);
    ward.predicted(prediction({ ts_ms: 1500 }));
    ward.predicted(prediction({ ts_ms: 1000, source: { partition: 0, offset: 4 } }));
    expect(ward.bed("A-1").prediction?.ts_ms).toBe(1500);
    ward.predicted(prediction({ ts_ms: 1200, case_id: "c2" }));
    expect(ward.bed("A-1").prediction?.ts_ms).toBe(1200);
  });

  it("calls a bed stale by the clock, without waiting for the server", () => {
    let now = 2000;
    const ward = new Ward(() => now);
    ward.predicted(prediction({ ts_ms: 1000 }));
    expect(ward.stale(ward.bed("A-1"))).toBe(false);
    now = 40_000;
    expect(ward.stale(ward.bed("A-1"))).toBe(true);
    expect(ward.stale(ward.bed("never heard"))).toBe(true);
  });

  it("closes alerts that the server no longer lists", () => {
    const ward = new Ward(() => 0);
    ward.alert(alert({}));
    ward.standing([]);
    expect(ward.bed("A-1").alerts).toEqual([]);
  });
});
