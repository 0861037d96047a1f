/** Words and numbers as a person reads them. Pure. */

import catalogue from "./signals.json";

interface SignalInfo {
  label: string;
  unit: string;
  group: string;
}

const SIGNALS: Record<string, SignalInfo> = catalogue;

export const SHORT: Record<string, string> = {
  hr: "HR",
  spo2: "SpO₂",
  map: "MAP",
  sbp: "SBP",
  dbp: "DBP",
  resp: "RR",
  temp: "Temp",
  etco2: "EtCO₂",
};

const RISKS: Record<string, string> = {
  sepsis: "Sepsis",
  mortality: "Death in hospital",
  hypotension: "Low pressure",
  hypoxaemia: "Low oxygen",
};

const RISK_MEANING: Record<string, string> = {
  sepsis: "onset within 6 h",
  mortality: "before leaving hospital",
  hypotension: "MAP < 65 mmHg within 1 h",
  hypoxaemia: "SpO₂ < 90 % within 1 h",
};

const KINDS: Record<string, string> = {
  ...RISKS,
  news2: "NEWS2 high",
  silence: "No data from bed",
  implausible: "Signals not believable",
};

const SCORES: Record<string, string> = {
  news2: "NEWS2",
  qsofa: "qSOFA",
  mews: "MEWS",
  sirs: "SIRS",
  shock_index: "Shock index",
};

export const TECHNICAL: ReadonlySet<string> = new Set(["silence", "implausible"]);

const ACVPU = ["Alert", "Confused", "Voice", "Pain", "Unresponsive"];

function plain(name: string): string {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export const signalLabel = (name: string): string => SIGNALS[name]?.label ?? plain(name);
export const signalUnit = (name: string): string => SIGNALS[name]?.unit ?? "";
export const signalGroup = (name: string): string => SIGNALS[name]?.group ?? "other";
export const riskLabel = (name: string): string => RISKS[name] ?? plain(name);
export const riskMeaning = (name: string): string => RISK_MEANING[name] ?? "";
export const kindLabel = (name: string): string => KINDS[name] ?? plain(name);
export const scoreLabel = (name: string): string => SCORES[name] ?? plain(name);
export const expertLabel = (name: string): string => plain(name);

/** A number with as many decimals as its size deserves. */
export function number(value: number | null | undefined, decimals?: number): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const digits = decimals ?? (Number.isInteger(value) || size >= 100 ? 0 : size >= 10 ? 1 : 2);
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A signal's value in the words used at the bedside. */
export function signalValue(name: string, value: number): string {
  if (name === "acvpu") return ACVPU[Math.round(value)] ?? number(value);
  if (name === "on_oxygen" || name === "mech_vent") return value >= 0.5 ? "yes" : "no";
  if (name === "temp" || name === "potassium" || name === "lactate") return number(value, 1);
  if (name === "ph") return number(value, 2);
  if (["hr", "spo2", "map", "sbp", "dbp", "resp", "etco2", "gcs"].includes(name))
    return number(value, 0);
  return number(value);
}

/** A probability in per cent; never 0 % or 100 %, which would claim certainty. */
export function percent(p: number): string {
  if (!Number.isFinite(p)) return "–";
  if (p < 0.01) return "<1 %";
  if (p > 0.99) return ">99 %";
  return `${Math.round(p * 100)} %`;
}

/** A length of time in its largest unit: "4 s", "2 min", "3 h", "2 d". */
export function duration(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.floor(hours / 24)} d`;
}

/** An alert's value or threshold in the unit of its kind; "" where there is none. */
export function alertValue(kind: string, value: number | null): string {
  if (value === null) return "";
  if (kind in RISKS) return percent(value);
  if (kind === "silence") return duration(value);
  return number(value);
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, {
  day: "2-digit",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  hour12: false,
});

/** Local clock time, with the day where it is not within the last 18 hours of `now_ms`. */
export function clock(ms: number, nowMs: number): string {
  return (Math.abs(nowMs - ms) < 18 * 3_600_000 ? CLOCK : DAY).format(ms);
}

/** How much an input's age takes from its weight: fresh, old or very old, by the signal's group. */
export function freshness(name: string, ageMs: number): "fresh" | "old" | "very old" {
  const minutes = ageMs / 60_000;
  const [old, veryOld] = signalGroup(name) === "vital" ? [5, 60] : [12 * 60, 24 * 60];
  return minutes < old ? "fresh" : minutes < veryOld ? "old" : "very old";
}
