/** A bed's page: what is measured, what the model makes of it and why, what it stands on. */

import { AlertItem } from "./alerts";
import { ProblemError, type Api } from "./api";
import { Chart } from "./charts";
import { attribute, h, text } from "./dom";
import {
  clock,
  duration,
  expertLabel,
  freshness,
  number,
  percent,
  riskLabel,
  riskMeaning,
  scoreLabel,
  SHORT,
  signalLabel,
  signalUnit,
  signalValue,
} from "./format";
import { compareAlerts } from "./rank";
import { stepFor, summary, withGaps } from "./series";
import type { Alert, Case, Prediction } from "./types";
import type { View } from "./view";
import type { Ward } from "./ward";

const CHARTS: [string, string, number][] = [
  ["hr", "--c-hr", 0],
  ["map", "--c-map", 0],
  ["spo2", "--c-spo2", 0],
  ["resp", "--c-resp", 0],
  ["temp", "--c-temp", 1],
  ["etco2", "--c-etco2", 0],
];
const RISK_LINES = {
  sepsis: { colour: "--c-map", dash: [] },
  hypotension: { colour: "--c-spo2", dash: [8, 4] },
  hypoxaemia: { colour: "--c-resp", dash: [2, 3] },
  mortality: { colour: "--c-temp", dash: [12, 3, 2, 3] },
} as const;
const HOURS = [1, 6, 24, 72];
const REFRESH_MS = 20_000;
const TILES = ["hr", "spo2", "map", "sbp", "dbp", "resp", "temp", "etco2"];

function panel(title: string, ...content: Node[]): HTMLElement {
  const id = `panel-${title.toLowerCase().replaceAll(" ", "-")}`;
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), ...content);
}

export class BedPage implements View {
  readonly element: HTMLElement;
  readonly title: string;
  private readonly status = h("div", { class: "bed-status" });
  private readonly tiles = h("dl", { class: "bed-vitals" });
  private readonly risks = h("div", { class: "risks" });
  private readonly drivers = h("div", {});
  private readonly experts = h("div", {});
  private readonly scores = h("div", {});
  private readonly inputs = h("div", {});
  private readonly caseFacts = h("dl", { class: "facts-list" });
  private readonly alerts = h("div", { class: "alerts" });
  private readonly chartHost = h("div", { class: "charts" });
  private readonly error = h("p", { class: "error", role: "alert" });
  private readonly ranges = new Map<number, HTMLButtonElement>();
  private readonly charts = new Map<string, { chart: Chart; figure: HTMLElement }>();
  private readonly items = new Map<string, AlertItem>();
  private readonly closed = new Map<string, Alert>();
  private hours = 6;
  private frame = 0;
  private timers: number[] = [];
  private abort = new AbortController();
  private readonly undo: (() => void)[] = [];

  constructor(
    private readonly bedId: string,
    private readonly api: Api,
    private readonly ward: Ward,
  ) {
    this.title = `Bed ${bedId}`;
    const group = h("div", { class: "filters", role: "group", "aria-label": "Range of the trends" });
    for (const hours of HOURS) {
      const pressed = String(hours === this.hours);
      const button = h("button", { type: "button", "aria-pressed": pressed }, `${hours} h`);
      button.addEventListener("click", () => this.setHours(hours));
      this.ranges.set(hours, button);
      group.append(button);
    }
    const trends = panel("Trends", group, this.chartHost);
    trends.classList.add("wide");
    this.element = h(
      "section",
      { class: "bed-page" },
      h("a", { class: "back", href: "#/" }, "← Ward"),
      h("h1", {}, `Bed ${bedId}`),
      this.status,
      this.error,
      this.tiles,
      h(
        "div",
        { class: "panels" },
        h(
          "div",
          { class: "main-column" },
          panel("Risks", this.risks),
          trends,
          panel("Inputs", this.inputs),
        ),
        h(
          "div",
          { class: "side-column" },
          panel("Alerts", this.alerts),
          panel("Drivers", this.drivers),
          panel("Experts", this.experts),
          panel("Scores", this.scores),
          panel("Case", this.caseFacts),
        ),
      ),
    );
  }

  start(): void {
    this.undo.push(
      this.ward.subscribe((bedId) => {
        if (bedId === this.bedId) this.want();
      }),
    );
    this.timers = [
      window.setInterval(() => this.want(), 1_000),
      window.setInterval(() => void this.load(), REFRESH_MS),
    ];
    this.draw();
    void this.load();
  }

  stop(): void {
    this.abort.abort();
    this.timers.forEach((timer) => clearInterval(timer));
    cancelAnimationFrame(this.frame);
    this.undo.forEach((undo) => undo());
    for (const { chart } of this.charts.values()) chart.destroy();
  }

  restyle(): void {
    for (const { chart } of this.charts.values()) chart.restyle();
  }

  private setHours(hours: number): void {
    this.hours = hours;
    for (const [value, button] of this.ranges)
      attribute(button, "aria-pressed", String(value === hours));
    void this.load();
  }

  private want(): void {
    if (this.frame !== 0) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private async load(): Promise<void> {
    this.abort.abort();
    const { signal } = (this.abort = new AbortController());
    const hours = this.hours;
    const now = this.api.now();
    const from = now - hours * 3_600_000;
    try {
      const [bed, trends, past, closed] = await Promise.all([
        this.api.bed(this.bedId, signal),
        this.api.trends(this.bedId, CHARTS.map(([name]) => name), from, stepFor(hours), signal),
        this.api.predictions(this.bedId, from, signal),
        this.api.alerts("closed", this.bedId),
      ]);
      text(this.error, "");
      this.ward.summary(bed);
      for (const alert of bed.alerts) this.ward.alert(alert);
      for (const alert of closed) this.closed.set(alert.id, alert);
      this.drawCase(bed.case);
      for (const [name, line, decimals] of CHARTS) {
        const rows = trends.signals[name] ?? [];
        const label = summary(signalLabel(name), signalUnit(name), rows, hours);
        const chart = this.chart(name, `${signalLabel(name)} ${signalUnit(name)}`, label, () => [
          [{ label: signalLabel(name), colour: line }],
          decimals,
        ]);
        chart.hidden = rows.length === 0;
        if (rows.length > 0)
          this.charts
            .get(name)
            ?.chart.draw(withGaps(rows, trends.step_s * 1000), from / 1000, now / 1000);
      }
      this.drawRiskHistory(past, from, now, hours);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ProblemError)) throw error;
      const missing = error.status === 404 ? `Bed ${this.bedId} was never heard of.` : error.message;
      text(this.error, missing);
    }
  }

  private chart(
    name: string,
    title: string,
    label: string,
    lines: () => [{ label: string; colour: string; dash?: number[] }[], number],
  ): HTMLElement {
    let held = this.charts.get(name);
    if (held === undefined) {
      const host = h("div", { class: "plot" });
      const figure = h("figure", { role: "img" }, h("figcaption", {}, title), host);
      this.chartHost.append(figure);
      const [made, decimals] = lines();
      const kind = name === "risk" ? "risk" : "band";
      const height = name === "risk" ? 190 : 150;
      held = { chart: new Chart(host, height, made, kind, decimals), figure };
      this.charts.set(name, held);
      if (name === "risk") figure.classList.add("risk-figure");
    }
    attribute(held.figure, "aria-label", label);
    return held.figure;
  }

  private drawRiskHistory(past: Prediction[], from: number, now: number, hours: number): void {
    const spoke = past.filter((prediction) => Object.keys(prediction.risks).length > 0);
    const names = Object.keys(RISK_LINES) as (keyof typeof RISK_LINES)[];
    const said = names.map((name) => {
      const last = spoke.at(-1)?.risks[name];
      return `${riskLabel(name)} ${last ? percent(last.p) : "unknown"}`;
    });
    const label = `Risks, last ${hours} h: ${said.join(", ")}`;
    const figure = this.chart("risk", "Risk history", label, () => [
      names.map((name) => ({ label: riskLabel(name), ...RISK_LINES[name], dash: dashOf(name) })),
      0,
    ]);
    figure.hidden = spoke.length === 0;
    if (spoke.length === 0) return;
    const columns: (number | null)[][] = [
      spoke.map((prediction) => prediction.ts_ms / 1000),
      ...names.map((name) => spoke.map((prediction) => prediction.risks[name]?.p ?? null)),
    ];
    this.charts.get("risk")?.chart.draw(columns, from / 1000, now / 1000);
  }

  private draw(): void {
    const bed = this.ward.bed(this.bedId);
    const age = this.ward.age(bed);
    const stale = this.ward.stale(bed);
    const prediction = bed.prediction;
    attribute(this.element, "class", `bed-page${stale ? " is-stale" : ""}`);
    const seen = age === null ? "never heard" : `last data ${duration(age)} ago`;
    text(
      this.status,
      stale
        ? `▨ STALE: ${seen}. Nothing below is live.`
        : `● Live, ${seen}${bed.caseId ? `, case ${bed.caseId}` : ", no case known"}`,
    );
    this.drawTiles(prediction, age ?? 0);
    this.drawRisks(prediction);
    this.drawDrivers(prediction, bed.lead?.name);
    this.drawExperts(prediction);
    this.drawScores(prediction);
    this.drawInputs(prediction, age ?? 0);
    this.drawAlerts();
  }

  private drawTiles(prediction: Prediction | null, age: number): void {
    const wanted = TILES.filter((name) => prediction?.inputs[name] !== undefined);
    if (this.tiles.children.length !== wanted.length)
      this.tiles.replaceChildren(
        ...wanted.map(() => h("div", { class: "tile" }, h("dt"), h("dd"), h("dd", { class: "old" }))),
      );
    wanted.forEach((name, i) => {
      const input = prediction?.inputs[name];
      const tile = this.tiles.children[i];
      const [dt, dd, note] = tile ? [...tile.children] : [];
      if (!tile || !dt || !dd || !note || !input) return;
      attribute(tile, "class", `tile ${name}`);
      text(dt, `${SHORT[name] ?? name} ${signalUnit(name)}`);
      text(dd, signalValue(name, input.v));
      const total = input.age_ms + age;
      text(note, freshness(name, total) === "fresh" ? "" : `${duration(total)} old`);
    });
  }

  private drawRisks(prediction: Prediction | null): void {
    const risks = Object.entries(prediction?.risks ?? {});
    if (risks.length === 0) {
      const why =
        prediction?.status === "warming_up"
          ? "Warming up: too little was measured for the model to speak. It starts by itself when enough vital signs are in the window."
          : "No prediction yet.";
      replaceOnce(this.risks, why);
      return;
    }
    if (this.risks.dataset["names"] !== risks.map(([name]) => name).join()) {
      this.risks.dataset["names"] = risks.map(([name]) => name).join();
      this.risks.replaceChildren(...risks.map(([name]) => riskRow(name)));
    }
    risks.forEach(([name, risk], i) => {
      const row = this.risks.children[i];
      if (!(row instanceof HTMLElement)) return;
      row.classList.toggle("positive", risk.positive);
      const limit = this.ward.thresholds[name];
      text(pick(row, ".p"), percent(risk.p));
      text(pick(row, ".span"), `${percent(risk.low)} to ${percent(risk.high)}`);
      const verdict = risk.positive ? "▲ above threshold" : "below threshold";
      text(pick(row, ".verdict"), limit ? `${verdict} (${percent(limit)})` : verdict);
      const range = pick(row, ".range");
      range.style.left = `${risk.low * 100}%`;
      range.style.width = `${Math.max(0.5, (risk.high - risk.low) * 100)}%`;
      pick(row, ".point").style.left = `${risk.p * 100}%`;
      const tick = pick(row, ".tick");
      tick.hidden = limit === undefined;
      tick.style.left = `${(limit ?? 0) * 100}%`;
    });
  }

  private drawDrivers(prediction: Prediction | null, lead: string | undefined): void {
    const drivers = prediction?.drivers ?? [];
    const most = Math.max(0.01, ...drivers.map((driver) => Math.abs(driver.effect)));
    const rows = drivers.map((driver) => {
      const fill = h("span", { class: driver.effect > 0 ? "up" : "down" });
      fill.style.width = `${(Math.abs(driver.effect) / most) * 50}%`;
      const effect = `${driver.effect > 0 ? "raises ▲" : "lowers ▼"} ${number(Math.abs(driver.effect), 2)}`;
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, signalLabel(driver.signal)),
        h("td", { class: "signed" }, h("span", { class: "axis", "aria-hidden": "true" }, fill)),
        h("td", { class: "effect" }, effect),
      );
    });
    const about = lead
      ? `What moves “${riskLabel(lead)}” from its usual level, in log-odds. Associations, not causes.`
      : "Nothing to explain yet.";
    this.drivers.replaceChildren(
      h("p", { class: "note" }, about),
      ...(rows.length ? [h("table", { class: "drivers" }, h("tbody", {}, ...rows))] : []),
    );
  }

  private drawExperts(prediction: Prediction | null): void {
    const shares = Object.entries(prediction?.experts ?? {}).sort((a, b) => b[1] - a[1]);
    const rows = shares.map(([name, share]) => {
      const fill = h("span", { class: "fill" });
      fill.style.width = `${share * 100}%`;
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, expertLabel(name)),
        h("td", { class: "share" }, h("span", { class: "bar", "aria-hidden": "true" }, fill)),
        h("td", { class: "effect" }, percent(share)),
      );
    });
    const novelty = prediction?.novelty ?? 0;
    const unlike =
      novelty > 0.8
        ? "▲ very unlike the training data: rely on it less"
        : novelty > 0.5
          ? "unlike much of the training data"
          : "like the training data";
    this.experts.replaceChildren(
      h("table", { class: "drivers" }, h("tbody", {}, ...rows)),
      ...(prediction
        ? [h("p", { class: "note" }, `Novelty ${number(novelty, 2)}: ${unlike}.`)]
        : []),
    );
  }

  private drawScores(prediction: Prediction | null): void {
    const rows = Object.entries(prediction?.scores ?? {}).map(([name, score]) => {
      const missing = score.missing.map((signal) => signalLabel(signal)).join(", ");
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, scoreLabel(name)),
        h("td", { class: "score" }, number(score.value)),
        h("td", { class: "note" }, missing ? `without ${missing}` : "complete"),
      );
    });
    this.scores.replaceChildren(h("table", {}, h("tbody", {}, ...rows)));
  }

  private drawInputs(prediction: Prediction | null, age: number): void {
    const order = ["fresh", "old", "very old"];
    const rows = Object.entries(prediction?.inputs ?? {})
      .map(([name, input]) => ({ name, v: input.v, age: input.age_ms + age }))
      .map((input) => ({ ...input, state: freshness(input.name, input.age) }))
      .map((input) =>
        h(
          "li",
          { class: `input f${order.indexOf(input.state)}` },
          h("span", { class: "name" }, signalLabel(input.name)),
          h("span", { class: "value" }, signalValue(input.name, input.v)),
          h("span", { class: "unit" }, signalUnit(input.name)),
          h(
            "span",
            { class: "how-old" },
            input.state === "fresh" ? duration(input.age) : `${input.state}, ${duration(input.age)}`,
          ),
        ),
      );
    this.inputs.replaceChildren(
      rows.length ? h("ul", { class: "inputs" }, ...rows) : h("p", {}, "Nothing is in the window."),
    );
  }

  private drawCase(found: Case | null): void {
    const now = this.api.now();
    const facts: [string, string][] =
      found === null
        ? [["Case", "not known: the model runs without age, sex and unit"]]
        : [
            ["Case", `${found.case_id} (${found.status})`],
            ["Admitted", `${clock(found.admitted_ms, now)}, ${duration(now - found.admitted_ms)} ago`],
            ["Age", found.age_years == null ? "not known" : `${number(found.age_years, 0)} years`],
            ["Sex", found.sex ?? "not known"],
            ["Unit", found.unit_type?.replaceAll("_", " ") ?? "not known"],
            ["Weight", found.weight_kg == null ? "not known" : `${number(found.weight_kg, 0)} kg`],
            ["Height", found.height_cm == null ? "not known" : `${number(found.height_cm, 0)} cm`],
            ["Problems", found.problems?.join(", ") || "none listed"],
            ["SpO₂ scale", found.spo2_scale == null ? "1 (not stated)" : String(found.spo2_scale)],
          ];
    this.caseFacts.replaceChildren(
      ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
  }

  private drawAlerts(): void {
    const standing = this.ward.bed(this.bedId).alerts;
    const ids = new Set(standing.map((alert) => alert.id));
    const past = [...this.closed.values()].filter((alert) => !ids.has(alert.id));
    const shown = [...standing, ...past].sort(compareAlerts).slice(0, 20);
    const kept = new Set(shown.map((alert) => alert.id));
    for (const [id, item] of this.items) {
      if (kept.has(id)) continue;
      item.element.remove();
      this.items.delete(id);
    }
    this.alerts.querySelector(".empty")?.remove();
    if (shown.length === 0) this.alerts.append(h("p", { class: "empty" }, "No alerts."));
    let next = this.alerts.firstElementChild;
    for (const alert of shown) {
      let item = this.items.get(alert.id);
      if (item === undefined) {
        item = new AlertItem(alert, this.api, this.ward, false);
        this.items.set(alert.id, item);
      } else item.update(alert, false);
      if (item.element === next) next = next.nextElementSibling;
      else this.alerts.insertBefore(item.element, next);
    }
  }
}

function dashOf(name: keyof typeof RISK_LINES): number[] {
  return [...RISK_LINES[name].dash];
}

function riskRow(name: string): HTMLElement {
  return h(
    "div",
    { class: "risk-row" },
    h("div", { class: "what" }, h("strong", {}, riskLabel(name)), h("small", {}, riskMeaning(name))),
    h("span", { class: "p" }),
    h(
      "div",
      { class: "interval", "aria-hidden": "true" },
      h("span", { class: "range" }),
      h("span", { class: "tick" }),
      h("span", { class: "point" }),
    ),
    h(
      "div",
      { class: "said" },
      h("span", { class: "sr-only" }, "interval "),
      h("span", { class: "span" }),
      h("span", { class: "verdict" }),
    ),
  );
}

function pick(root: HTMLElement, selector: string): HTMLElement {
  const found = root.querySelector<HTMLElement>(selector);
  if (found === null) throw new Error(`the page lacks ${selector}`);
  return found;
}

function replaceOnce(element: HTMLElement, words: string): void {
  delete element.dataset["names"];
  if (element.textContent !== words) element.replaceChildren(h("p", { class: "note" }, words));
}
