/** The card's `evaluation`: what was measured of the weights, as tables and plots. */

import { h } from "./dom";
import { forest, plot, type Point, type Series } from "./plots";

interface Interval {
  value: number | null;
  low: number | null;
  high: number | null;
}

interface Rival {
  auroc: Interval;
  auprc: Interval;
  ahead_auroc: Interval;
  ahead_auprc: Interval;
}

interface Task {
  rows: number;
  events: number;
  patients: number;
  auroc: Interval;
  auprc: Interval;
  rivals: Record<string, Rival>;
  calibration: Record<string, Interval>;
  utility?: { model: Interval };
  challenge?: { event1: Interval; event2: Interval };
}

interface Group {
  kind: string;
  group: string;
  patients: number;
  events: number;
  auroc: Interval;
  slope: Interval;
  intercept: Interval;
  alarm_rate: Interval;
  ppv: Interval;
}

type Judged = Record<string, Interval> & { lead_time_h?: { median: number; q25: number; q75: number } };
type Operating = Record<"threshold" | "recall" | "alerts_per_day" | "ppv", number[]>;
type Reliability = Record<"said" | "observed" | "low" | "high" | "rows", (number | null)[]>;
type Curve = Record<"recall" | "false_positive_rate" | "precision", number[]>;

export interface Evaluation {
  protocol: string;
  tasks: Record<string, Task>;
  calibration: Record<string, Reliability>;
  decision_curve: Record<string, Record<"threshold" | "model" | "news2" | "all", number[]>>;
  curves: Record<string, Record<string, Curve>>;
  subgroups: Record<string, Group[]>;
  alarm_policy?: {
    as_shipped: Judged;
    beside: Record<string, Judged>;
    operating_curve: Operating;
    operating_curve_news2: Operating;
    stays: number;
    septic_stays: number;
    patient_days: number;
  };
  bounds?: Record<string, Record<string, { cells: number; inside: number | null }>>;
  drivers?: { deletion: Record<string, Interval> };
}

const TASKS: Record<string, string> = {
  sepsis_physionet2019: "Sepsis within 6 h (PhysioNet 2019)",
  sepsis_physionet2019_A: "– hospital A",
  sepsis_physionet2019_B: "– hospital B",
  mortality_48h_physionet2012: "Death in hospital at 48 h (PhysioNet 2012)",
  mortality_24h_eicu: "Death in hospital at 24 h (eICU)",
  mortality_24h_eicu_with_apache: "– where APACHE IVa spoke",
  hypotension: "MAP below 65 mmHg within 1 h",
  hypotension_now_normal: "– now normal",
  hypotension_eicu: "– eICU",
  hypoxaemia: "SpO₂ below 90 % within 1 h",
  hypoxaemia_now_normal: "– now normal",
  hypoxaemia_eicu: "– eICU",
};
const RIVALS: Record<string, string> = {
  news2: "NEWS2",
  qsofa: "qSOFA",
  mews: "MEWS",
  sirs: "SIRS",
  last_value: "last value",
  trees: "boosted trees alone",
  network: "network alone",
  apache_iva: "APACHE IVa",
};
const POLICIES: Record<string, string> = { news2_7: "NEWS2 ≥ 7", news2_5: "NEWS2 ≥ 5", qsofa_2: "qSOFA ≥ 2" };
const KINDS: Record<string, string> = { model: "model", news2: "other", trees: "third", last_value: "third" };

const words = (name: string): string => {
  const spaced = name.replaceAll("_", " ");
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
};
const fixed = (value: number, digits: number): string => value.toFixed(digits).replace("-", "−");

export function spanned(entry: Interval | undefined, digits = 3): string {
  if (entry?.value === null || entry?.value === undefined) return "–";
  const middle = fixed(entry.value, digits);
  if (entry.low === null || entry.high === null) return middle;
  return `${middle} (${fixed(entry.low, digits)} to ${fixed(entry.high, digits)})`;
}

type Cell = string | HTMLElement;

function table(caption: string, head: string[], rows: Cell[][]): HTMLElement {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...head.map((name) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        ...rows.map((row) =>
          h(
            "tr",
            {},
            ...row.map((cell, i) =>
              typeof cell !== "string" ? cell : i === 0 ? h("th", { scope: "row" }, cell) : h("td", {}, cell),
            ),
          ),
        ),
      ),
    ),
  );
}

/** Green where the whole interval is ahead, orange where it is behind. */
function difference(entry: Interval): HTMLElement {
  const kind = (entry.low ?? 0) > 0 ? "ahead" : (entry.high ?? 0) < 0 ? "behind" : "";
  return h("td", kind === "" ? {} : { class: kind }, spanned(entry));
}

function scores(given: Evaluation): HTMLElement {
  return table(
    "Discrimination",
    ["", "Patients", "Events", "AUROC", "AUPRC", "Challenge's score", "Slope", "Intercept"],
    Object.entries(given.tasks).map(([name, task]) => [
      TASKS[name] ?? words(name),
      task.patients.toLocaleString("en"),
      task.events.toLocaleString("en"),
      spanned(task.auroc),
      spanned(task.auprc),
      task.utility
        ? `utility ${spanned(task.utility.model)}`
        : task.challenge
          ? `Event 1 ${spanned(task.challenge.event1)}; Event 2 ${spanned(task.challenge.event2, 1)}`
          : "–",
      spanned(task.calibration["slope"], 2),
      spanned(task.calibration["intercept"], 2),
    ]),
  );
}

function rivals(given: Evaluation): HTMLElement {
  const rows: Cell[][] = [];
  for (const [name, task] of Object.entries(given.tasks))
    for (const [rival, his] of Object.entries(task.rivals))
      rows.push([
        TASKS[name] ?? words(name),
        RIVALS[rival] ?? words(rival),
        spanned(his.auroc),
        difference(his.ahead_auroc),
        spanned(his.auprc),
        difference(his.ahead_auprc),
      ]);
  return table("Beside others", ["", "Beside", "AUROC", "Ahead by", "AUPRC", "Ahead by"], rows);
}

const zipped = (x: number[], y: number[]): Point[] => x.map((each, i) => [each, y[i] ?? 0] as const);

function curves(given: Evaluation, task: string, x: keyof Curve, y: keyof Curve): Series[] {
  return Object.entries(given.curves[task] ?? {}).map(([name, curve]) => ({
    name: name === "model" ? "this model" : (RIVALS[name] ?? name),
    kind: KINDS[name] ?? "plain",
    dashed: name === "last_value",
    points: zipped(curve[x], curve[y]),
  }));
}

function reliability(said: Reliability): HTMLElement {
  const points: Point[] = [];
  const bars: [number, number, number][] = [];
  said.said.forEach((x, i) => {
    const y = said.observed[i];
    if (typeof x !== "number" || typeof y !== "number") return;
    points.push([x, y]);
    bars.push([x, said.low[i] ?? y, said.high[i] ?? y]);
  });
  const top = 1.05 * Math.max(...points.flat(), ...bars.map((bar) => bar[2]), 0.001);
  const axis = { min: 0, max: top, percent: true };
  return plot("Reliability", { ...axis, label: "risk said" }, { ...axis, label: "observed" }, [
    { name: "", kind: "plain", dashed: true, points: [[0, 0], [top, top]] },
    { name: "this model", kind: "model", points, bars, dots: true },
  ]);
}

function decision(said: Evaluation["decision_curve"][string]): HTMLElement {
  const first = said.threshold[0] ?? 0.01;
  const last = said.threshold.at(-1) ?? 0.5;
  const top = 1.15 * Math.max(...said.model, ...said.news2, 1e-6);
  return plot(
    "Decision curve",
    { label: "threshold", min: first, max: last, log: true, percent: true },
    { label: "net benefit", min: -0.15 * top, max: top },
    [
      { name: "treat all", kind: "plain", dashed: true, points: zipped(said.threshold, said.all) },
      { name: "treat none", kind: "plain", points: [[first, 0], [last, 0]] },
      { name: "NEWS2 as probability", kind: "other", points: zipped(said.threshold, said.news2) },
      { name: "this model", kind: "model", points: zipped(said.threshold, said.model) },
    ],
  );
}

function plots(given: Evaluation, task: string): HTMLElement {
  const unit = { min: 0, max: 1, percent: true };
  const grid = h("div", { class: "plots" });
  const precision = curves(given, task, "recall", "precision");
  const highest = Math.max(...precision.flatMap((each) => each.points.map((point) => point[1])), 0.01);
  const top = Math.min(1, 1.1 * highest);
  const bins = given.calibration[task];
  if (bins) grid.append(reliability(bins));
  grid.append(
    plot("ROC", { ...unit, label: "false positive rate" }, { ...unit, label: "sensitivity" }, [
      { name: "", kind: "plain", dashed: true, points: [[0, 0], [1, 1]] },
      ...curves(given, task, "false_positive_rate", "recall"),
    ]),
    plot("Precision and recall", { ...unit, label: "sensitivity" }, { ...unit, max: top, label: "predictive value" }, precision),
  );
  const net = given.decision_curve[task];
  if (net) grid.append(decision(net));
  const groups = (given.subgroups[task] ?? []).flatMap((group) =>
    group.auroc.value === null
      ? []
      : [
          {
            name: group.group.replaceAll("_", " "),
            value: group.auroc.value,
            low: group.auroc.low ?? group.auroc.value,
            high: group.auroc.high ?? group.auroc.value,
          },
        ],
  );
  if (groups.length > 0) grid.append(forest("Groups", "AUROC with 95 %", groups));
  return grid;
}

function alarms(given: NonNullable<Evaluation["alarm_policy"]>): HTMLElement[] {
  const line = (name: string, kind: string, curve: Operating): Series => ({
    name,
    kind,
    points: zipped(curve.alerts_per_day, curve.recall),
  });
  const shipped = given.as_shipped;
  const at = [
    shipped["alerts_per_patient_day"]?.value ?? 0,
    shipped["septic_stays_caught_before_onset"]?.value ?? 0,
  ] as const;
  const row = (name: string, judged: Judged): Cell[] => [
    name,
    spanned(judged["septic_stays_caught_before_onset"]),
    spanned(judged["alert_standing_within_12_h_before_onset"]),
    spanned(judged["alerts_per_patient_day"], 2),
    spanned(judged["ppv_of_alerts"]),
    spanned(judged["ppv_of_alerting_stays"]),
    judged.lead_time_h
      ? `${judged.lead_time_h.median} (${judged.lead_time_h.q25} to ${judged.lead_time_h.q75})`
      : "–",
  ];
  return [
    h(
      "p",
      { class: "note" },
      `${given.stays.toLocaleString("en")} stays, ${given.septic_stays.toLocaleString("en")} septic, ` +
        `${given.patient_days.toLocaleString("en")} patient-days. The ward's own delays and silence after an alert; ` +
        "bedside scores under the same ones. Hourly rows are held to last until the next.",
    ),
    table(
      "Sepsis alerts",
      [
        "",
        "Septic stays with an alert before onset",
        "Standing in the 12 h before",
        "Alerts a patient-day",
        "PPV of an alert (12 h)",
        "PPV of a stay",
        "Lead time, h (quartiles)",
      ],
      [
        row("This model, as shipped", shipped),
        ...Object.entries(given.beside).map(([name, judged]) => row(POLICIES[name] ?? words(name), judged)),
      ],
    ),
    h(
      "div",
      { class: "plots" },
      plot(
        "Alarm burden",
        { label: "sepsis alerts a patient-day", min: 0, max: 2 },
        { label: "septic stays caught", min: 0, max: 1, percent: true },
        [
          { name: "80 % at 1 a day", kind: "plain", dashed: true, points: [[0, 0.8], [1, 0.8], [1, 0]] },
          line("NEWS2", "other", given.operating_curve_news2),
          line("this model", "model", given.operating_curve),
          { name: "as shipped", kind: "model", points: [at], dots: true },
        ],
      ),
    ),
  ];
}

function groupTable(groups: Group[]): HTMLElement {
  return table(
    "Groups",
    ["", "Patients", "Events", "AUROC", "Slope", "Intercept", "Alarm rate", "PPV"],
    groups.map((group) => [
      words(group.group),
      group.patients.toLocaleString("en"),
      group.events.toLocaleString("en"),
      spanned(group.auroc),
      spanned(group.slope, 2),
      spanned(group.intercept, 2),
      spanned(group.alarm_rate),
      spanned(group.ppv),
    ]),
  );
}

/** Sections of what was measured, the most asked first. */
export function evaluation(given: Evaluation): HTMLElement[] {
  const out = [
    h(
      "section",
      {},
      h("h2", {}, "How well it tells"),
      h("p", { class: "note" }, `Protocol: ${given.protocol}. Intervals are 95 %, by resampling patients.`),
      scores(given),
      h("details", {}, h("summary", {}, "Beside bedside scores and other means, paired"), rivals(given)),
    ),
  ];
  for (const task of Object.keys(given.curves)) {
    const groups = given.subgroups[task] ?? [];
    out.push(
      h(
        "section",
        {},
        h("h3", {}, TASKS[task] ?? words(task)),
        plots(given, task),
        groups.length > 0 && h("details", {}, h("summary", {}, "Units, sexes and ages"), groupTable(groups)),
      ),
    );
  }
  if (given.alarm_policy) out.push(h("section", {}, h("h2", {}, "How often it speaks"), ...alarms(given.alarm_policy)));
  return out;
}
