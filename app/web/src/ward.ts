/** What the page knows of the ward: the newest of each bed and the alerts that stand. */

import { compareAlerts, leading, newsworthy, urgency, type Leading, type Urgency } from "./rank";
import type { Alert, BedSummary, Prediction } from "./types";

const STALE_MS = 30_000;

export class Bed {
  caseId: string | null = null;
  prediction: Prediction | null = null;
  /** Server time of the newest event, ms; null where nothing was ever heard. */
  newestMs: number | null = null;
  saidStale = false;
  alerts: Alert[] = [];
  lead: Leading | null = null;
  urgency: Urgency = { level: 6, step: -99 };

  constructor(readonly id: string) {}

  get bed_id(): string {
    return this.id;
  }
}

/** Holds the state; views ask it and are told which beds changed. No DOM. */
export class Ward {
  readonly beds = new Map<string, Bed>();
  readonly alerts = new Map<string, Alert>();
  thresholds: Record<string, number> = {};
  private staleMs = STALE_MS;
  private readonly listeners = new Set<(bedId: string) => void>();
  private readonly alertListeners = new Set<(alert: Alert) => void>();
  /** Called for each high alert that a screen reader should hear of. */
  onNews: (alert: Alert) => void = () => undefined;

  constructor(private readonly now: () => number) {}

  subscribe(listener: (bedId: string) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  subscribeAlerts(listener: (alert: Alert) => void): () => void {
    this.alertListeners.add(listener);
    return () => this.alertListeners.delete(listener);
  }

  bed(id: string): Bed {
    let bed = this.beds.get(id);
    if (bed === undefined) {
      bed = new Bed(id);
      this.beds.set(id, bed);
    }
    return bed;
  }

  age(bed: Bed): number | null {
    return bed.newestMs === null ? null : Math.max(0, this.now() - bed.newestMs);
  }

  stale(bed: Bed): boolean {
    const age = this.age(bed);
    return bed.saidStale || age === null || age > this.staleMs;
  }

  summary(given: BedSummary): void {
    const bed = this.bed(given.bed_id);
    if (given.case_id !== bed.caseId || given.cleared) {
      bed.caseId = given.case_id;
      bed.prediction = null;
    }
    if (given.prediction !== undefined && !this.isOlder(bed, given.prediction))
      bed.prediction = given.prediction;
    bed.saidStale = given.stale;
    if (given.age_ms !== null) {
      bed.newestMs = this.now() - given.age_ms;
      // A server that calls an older bed live has a longer limit than ours.
      if (!given.stale && given.age_ms > this.staleMs) this.staleMs = given.age_ms;
    }
    this.changed(bed);
  }

  predicted(prediction: Prediction): void {
    const bed = this.bed(prediction.bed_id);
    if (prediction.case_id === bed.caseId && this.isOlder(bed, prediction)) return;
    bed.caseId = prediction.case_id;
    bed.prediction = prediction;
    bed.newestMs = prediction.ts_ms;
    bed.saidStale = this.now() - prediction.ts_ms > this.staleMs;
    this.changed(bed);
  }

  alert(alert: Alert): void {
    const before = this.alerts.get(alert.id);
    if (before !== undefined && before.updated_ms > alert.updated_ms) return;
    const news = newsworthy(before, alert);
    this.alerts.set(alert.id, alert);
    const bed = this.bed(alert.bed_id);
    bed.alerts = bed.alerts.filter((other) => other.id !== alert.id);
    if (alert.state !== "closed") bed.alerts.push(alert);
    bed.alerts.sort(compareAlerts);
    this.changed(bed);
    for (const listener of this.alertListeners) listener(alert);
    if (news) this.onNews(alert);
  }

  /** Replaces the alerts that stand by what the server lists; those it no longer lists are closed. */
  standing(alerts: readonly Alert[]): void {
    const listed = new Set(alerts.map((alert) => alert.id));
    for (const alert of [...this.alerts.values()])
      if (alert.state !== "closed" && !listed.has(alert.id)) this.alert({ ...alert, state: "closed" });
    for (const alert of alerts) this.alert(alert);
  }

  forgetOthers(ids: ReadonlySet<string>): void {
    for (const [id, bed] of this.beds) {
      if (ids.has(id) || bed.alerts.length > 0) continue;
      this.beds.delete(id);
      for (const listener of this.listeners) listener(id);
    }
  }

  /** Works out a bed's place on the board. */
  rank(bed: Bed): void {
    bed.urgency = urgency(bed.alerts, this.stale(bed), bed.lead);
  }

  private isOlder(bed: Bed, prediction: Prediction | null): boolean {
    return (
      prediction !== null &&
      bed.prediction !== null &&
      bed.prediction.case_id === prediction.case_id &&
      prediction.source.offset < bed.prediction.source.offset &&
      prediction.ts_ms <= bed.prediction.ts_ms
    );
  }

  private changed(bed: Bed): void {
    bed.lead = leading(bed.prediction, this.thresholds);
    this.rank(bed);
    for (const listener of this.listeners) listener(bed.id);
  }
}
