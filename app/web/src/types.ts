/** The messages of the REST API and of the live stream, as the page reads them. Times are ms UTC. */

export interface Risk {
  p: number;
  low: number;
  high: number;
  positive: boolean;
}

export interface Score {
  value: number | null;
  missing: string[];
}

export interface Prediction {
  bed_id: string;
  case_id: string | null;
  ts_ms: number;
  produced_ms: number;
  model: string;
  model_version: string;
  status: "ok" | "warming_up";
  risks: Record<string, Risk>;
  experts: Record<string, number>;
  novelty: number;
  scores: Record<string, Score>;
  inputs: Record<string, { v: number; age_ms: number }>;
  drivers: { signal: string; effect: number }[];
  source: { partition: number; offset: number };
}

export interface Case {
  case_id: string;
  status: "open" | "closed";
  admitted_ms: number;
  hospital_admitted_ms?: number | null;
  age_years?: number | null;
  sex?: string | null;
  unit_type?: string | null;
  weight_kg?: number | null;
  height_cm?: number | null;
  problems?: string[];
  spo2_scale?: number | null;
}

export type AlertState = "open" | "acknowledged" | "snoozed" | "escalated" | "closed";
export type Priority = "high" | "medium" | "low";

export interface Alert {
  id: string;
  bed_id: string;
  case_id: string | null;
  kind: string;
  priority: Priority;
  state: AlertState;
  opened_ms: number;
  updated_ms: number;
  value: number | null;
  threshold: number | null;
  history: { ms: number; by: string; action: string; reason?: string | null }[];
}

/** What `/v1/beds` and the stream's `bed` events say of a bed. */
export interface BedSummary {
  bed_id: string;
  case_id: string | null;
  stale: boolean;
  age_ms: number | null;
  prediction?: Prediction | null;
  open_alerts: number;
  /** On the stream: there is no prediction of the present case. */
  cleared?: boolean;
}

export interface BedDetail extends BedSummary {
  case: Case | null;
  alerts: Alert[];
}

export interface Trends {
  step_s: number;
  signals: Record<string, [number, number, number, number][]>;
}

export type Action = "acknowledge" | "snooze" | "escalate";
