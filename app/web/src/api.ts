/** The REST API, with the token that `run` hands over in the URL's fragment. */

import type { Action, Alert, AlertState, BedDetail, BedSummary, Prediction, Trends } from "./types";

const STORED = "vitalstream.token";

/** A problem document (RFC 9457), or no answer at all (`status` 0). */
export class ProblemError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Takes the token out of the fragment, so that it stays in no bookmark and on no screen. */
export function takeToken(): string {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("token");
  if (given) {
    sessionStorage.setItem(STORED, given);
    history.replaceState(null, "", `${location.pathname}${location.search}#/`);
  }
  return sessionStorage.getItem(STORED) ?? "";
}

export class Api {
  /** Called when the token is refused. */
  onRefused: () => void = () => undefined;
  /** The server's clock less this one's, in ms; 0 within the header's precision. */
  skewMs = 0;

  constructor(private token: string) {}

  get hasToken(): boolean {
    return this.token !== "";
  }

  setToken(token: string): void {
    this.token = token;
    if (token) sessionStorage.setItem(STORED, token);
    else sessionStorage.removeItem(STORED);
  }

  now(): number {
    return Date.now() + this.skewMs;
  }

  async fetch(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.token) headers.set("Authorization", `Bearer ${this.token}`);
    let response: Response;
    try {
      response = await fetch(path, { ...init, headers, cache: "no-store" });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new ProblemError(0, "The server does not answer.");
    }
    this.setSkew(response.headers.get("Date"));
    if (response.status === 401) this.onRefused();
    if (!response.ok) throw new ProblemError(response.status, await problem(response));
    return response;
  }

  private setSkew(date: string | null): void {
    const server = date === null ? Number.NaN : Date.parse(date) + 500;
    const skew = server - Date.now();
    // The header has whole seconds; what lies within them is no evidence of a wrong clock.
    if (Number.isFinite(skew)) this.skewMs = Math.abs(skew) < 2_000 ? 0 : skew;
  }

  private async json<T>(path: string, signal?: AbortSignal): Promise<T> {
    const response = await this.fetch(path, signal ? { signal } : {});
    return (await response.json()) as T;
  }

  async beds(): Promise<BedSummary[]> {
    return (await this.json<{ beds: BedSummary[] }>("/v1/beds")).beds;
  }

  bed(bedId: string, signal?: AbortSignal): Promise<BedDetail> {
    return this.json(`/v1/beds/${encodeURIComponent(bedId)}`, signal);
  }

  async predictions(bedId: string, fromMs: number, signal?: AbortSignal): Promise<Prediction[]> {
    const path = `/v1/beds/${encodeURIComponent(bedId)}/predictions`;
    const query = new URLSearchParams({ from_ms: String(Math.round(fromMs)), limit: "5000" });
    return (await this.json<{ predictions: Prediction[] }>(`${path}?${query}`, signal)).predictions;
  }

  trends(
    bedId: string,
    signals: readonly string[],
    fromMs: number,
    stepS: number,
    signal?: AbortSignal,
  ): Promise<Trends> {
    const query = new URLSearchParams({
      signals: signals.join(","),
      from_ms: String(Math.round(fromMs)),
      step_s: String(stepS),
    });
    return this.json(`/v1/beds/${encodeURIComponent(bedId)}/trends?${query}`, signal);
  }

  async alerts(state: AlertState, bedId?: string): Promise<Alert[]> {
    const query = new URLSearchParams({ state, ...(bedId ? { bed_id: bedId } : {}) });
    return (await this.json<{ alerts: Alert[] }>(`/v1/alerts?${query}`)).alerts;
  }

  /** Every alert that is not closed. */
  async standing(): Promise<Alert[]> {
    const states = ["open", "escalated", "acknowledged", "snoozed"] as const;
    return (await Promise.all(states.map((state) => this.alerts(state)))).flat();
  }

  model(): Promise<unknown> {
    return this.json("/v1/model");
  }

  async act(
    alertId: string,
    action: Action,
    given: { reason: string; by: string; minutes?: number | undefined },
  ): Promise<Alert> {
    const { reason, by, minutes } = given;
    const body: { reason?: string; by?: string; minutes?: number } = {};
    if (reason) body.reason = reason;
    if (by) body.by = by;
    if (minutes !== undefined) body.minutes = minutes;
    const response = await this.fetch(`/v1/alerts/${encodeURIComponent(alertId)}/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    return (await response.json()) as Alert;
  }
}

async function problem(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const document = JSON.parse(text) as { detail?: unknown; title?: unknown };
    for (const part of [document.detail, document.title])
      if (typeof part === "string" && part) return part;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  return `${response.status} ${response.statusText}`;
}
