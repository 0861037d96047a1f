/** Who needs a person first. Pure. */

import { TECHNICAL } from "./format";
import type { Alert, Prediction } from "./types";

/** A risk relative to its shipped threshold; without one, a positive counts as past it. */
export function relative(
  risk: { p: number; positive: boolean },
  threshold: number | undefined,
): number {
  if (threshold !== undefined && threshold > 0) return risk.p / threshold;
  return risk.positive ? 1 + risk.p : risk.p;
}

export interface Leading {
  name: string;
  p: number;
  positive: boolean;
  relative: number;
}

/** The risk that is highest relative to its threshold, or null where the model does not speak. */
export function leading(
  prediction: Prediction | null,
  thresholds: Record<string, number>,
): Leading | null {
  let best: Leading | null = null;
  for (const [name, risk] of Object.entries(prediction?.risks ?? {})) {
    const rel = relative(risk, thresholds[name]);
    if (best === null || rel > best.relative)
      best = { name, p: risk.p, positive: risk.positive, relative: rel };
  }
  return best;
}

const PRIORITY = { high: 0, medium: 1, low: 2 } as const;

export const unanswered = (alert: Alert): boolean =>
  alert.state === "open" || alert.state === "escalated";

/** Alerts in the order in which they ask for a person. */
export function compareAlerts(a: Alert, b: Alert): number {
  return (
    Number(unanswered(b)) - Number(unanswered(a)) ||
    PRIORITY[a.priority] - PRIORITY[b.priority] ||
    Number(b.state === "escalated") - Number(a.state === "escalated") ||
    b.opened_ms - a.opened_ms ||
    (a.id < b.id ? -1 : 1)
  );
}

export interface Urgency {
  /** 0 comes first. */
  level: number;
  /** Risk relative to threshold in steps of about 20 %, so that noise does not shuffle the board. */
  step: number;
}

/**
 * Level 0 an unanswered high alert that was escalated, 1 another unanswered high alert, 2 escalated
 * of lower priority, 3 unanswered medium, 4 a risk past its threshold, 5 stale or a technical
 * alert, 6 the others.
 */
export function urgency(
  alerts: readonly Alert[],
  stale: boolean,
  lead: Leading | null,
): Urgency {
  let level = 6;
  for (const alert of alerts) {
    if (!unanswered(alert)) continue;
    const escalated = alert.state === "escalated";
    const own = TECHNICAL.has(alert.kind)
      ? 5
      : alert.priority === "high"
        ? escalated
          ? 0
          : 1
        : escalated
          ? 2
          : alert.priority === "medium"
            ? 3
            : 5;
    level = Math.min(level, own);
  }
  if (!stale && lead?.positive) level = Math.min(level, 4);
  if (stale) level = Math.min(level, 5);
  const rel = stale || lead === null ? 0 : lead.relative;
  return { level, step: rel > 0 ? Math.round(Math.log2(rel) * 4) : -99 };
}

const COLLATOR = new Intl.Collator("en", { numeric: true });

/** Orders beds by urgency, equal ones by name ("A-2" before "A-10"). */
export function compareBeds(
  a: { bed_id: string; urgency: Urgency },
  b: { bed_id: string; urgency: Urgency },
): number {
  return (
    a.urgency.level - b.urgency.level ||
    b.urgency.step - a.urgency.step ||
    COLLATOR.compare(a.bed_id, b.bed_id)
  );
}

/** Names compared as a person would order them. */
export const compareNames = (a: string, b: string): number => COLLATOR.compare(a, b);

/** Alerts of which the screen reader is told: high, unanswered and not said before in this state. */
export function newsworthy(before: Alert | undefined, now: Alert): boolean {
  if (now.priority !== "high" || !unanswered(now)) return false;
  return before === undefined || !unanswered(before) || before.state !== now.state;
}

/** Finds the shipped thresholds in a model card, wherever it keeps them. */
export function thresholdsIn(card: unknown, risks: readonly string[]): Record<string, number> {
  const found: Record<string, number> = {};
  const visit = (node: unknown, depth: number): void => {
    if (node === null || typeof node !== "object" || depth > 5) return;
    for (const [key, value] of Object.entries(node)) {
      if (/^thresholds?$/.test(key) && value !== null && typeof value === "object") {
        for (const risk of risks) {
          const limit = (value as Record<string, unknown>)[risk];
          if (typeof limit === "number" && limit > 0 && !(risk in found)) found[risk] = limit;
        }
      } else if (risks.includes(key) && value !== null && typeof value === "object") {
        const limit = (value as Record<string, unknown>)["threshold"];
        if (typeof limit === "number" && limit > 0 && !(key in found)) found[key] = limit;
      }
      visit(value, depth + 1);
    }
  };
  visit(card, 0);
  return found;
}
