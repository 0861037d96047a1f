/** The model card as `/v1/model` gives it: what was measured with its plots, limits, and all facts. */

import "./model.css";

import { ProblemError, type Api } from "./api";
import { h } from "./dom";
import { evaluation, type Evaluation } from "./evaluation";
import { number } from "./format";
import type { View } from "./view";

const words = (key: string): string => {
  const spaced = key.replaceAll("_", " ");
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
};

type Facts = Record<string, unknown>;
const isFacts = (value: unknown): value is Facts =>
  value !== null && typeof value === "object" && !Array.isArray(value);
const isPlain = (value: unknown): boolean => value === null || typeof value !== "object";

function shown(value: unknown): string {
  if (typeof value === "number") return number(value, Number.isInteger(value) ? 0 : 3);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return value === null || value === undefined ? "–" : String(value);
}

function render(value: unknown, level: number): HTMLElement {
  if (isPlain(value)) return h("p", {}, shown(value));
  if (Array.isArray(value)) {
    if (value.length > 0 && value.every((row) => isFacts(row) && Object.values(row).every(isPlain)))
      return table(value as Facts[]);
    return h("ul", {}, ...value.map((item) => h("li", {}, isPlain(item) ? shown(item) : render(item, level))));
  }
  const facts = value as Facts;
  const rows = Object.entries(facts);
  const nested = rows.filter(([, inner]) => isFacts(inner));
  if (nested.length > 1 && nested.length === rows.length && nested.every(([, inner]) => Object.values(inner as Facts).every(isPlain)))
    return table(rows.map(([name, inner]) => ({ name: words(name), ...(inner as Facts) })));
  const plain = rows.filter(([, inner]) => isPlain(inner));
  const deep = rows.filter(([, inner]) => !isPlain(inner));
  const out = h("div", { class: "card-facts" });
  if (plain.length > 0)
    out.append(
      h(
        "dl",
        { class: "facts-list" },
        ...plain.map(([name, inner]) => h("div", {}, h("dt", {}, words(name)), h("dd", {}, shown(inner)))),
      ),
    );
  const heading = (["h2", "h3", "h4", "h5"] as const)[Math.min(level, 3)] ?? "h5";
  for (const [name, inner] of deep)
    out.append(h("section", {}, h(heading, {}, words(name)), render(inner, level + 1)));
  return out;
}

function table(rows: Facts[]): HTMLElement {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, words(name))))),
      h(
        "tbody",
        {},
        ...rows.map((row) => h("tr", {}, ...names.map((name) => h("td", {}, shown(row[name]))))),
      ),
    ),
  );
}

const texts = (value: unknown): string[] => (Array.isArray(value) ? value.filter((each) => typeof each === "string") : []);

function list(title: string, items: string[], kind: string): HTMLElement | null {
  if (items.length === 0) return null;
  return h("section", {}, h("h2", {}, title), h("ul", { class: kind }, ...items.map((item) => h("li", {}, item))));
}

/** The parts of a card that a person asks for first; what it lacks is left out. */
function sections(card: Facts): HTMLElement[] {
  const { evaluation: measured, applied_model_card: applied, ...facts } = card;
  const out: (HTMLElement | null)[] = [
    h(
      "section",
      {},
      h("p", {}, h("strong", {}, `${shown(card["name"])} ${shown(card["version"])}`)),
      h("p", { class: "note" }, shown(card["intended_use"])),
    ),
    ...(isFacts(measured) ? evaluation(measured as unknown as Evaluation) : []),
    list("Limits", texts(card["limits"]), "limits"),
    list("Populations not covered", texts(card["populations_not_covered"]), "limits"),
    Array.isArray(card["data"]) ? h("section", {}, h("h2", {}, "Data and licences"), render(card["data"], 1)) : null,
    isFacts(applied) ? folded("Applied model card (CHAI)", applied) : null,
    isFacts(measured) ? folded("Bounds, drivers and novelty, in figures", rest(measured)) : null,
    folded("All facts about the weights", facts),
  ];
  return out.filter((each) => each !== null);
}

function rest(measured: Facts): Facts {
  const names = ["rows", "weights_on", "bounds", "drivers", "novelty", "command"];
  return Object.fromEntries(names.filter((name) => name in measured).map((name) => [name, measured[name]]));
}

function folded(title: string, facts: Facts): HTMLElement {
  return h("details", {}, h("summary", {}, title), render(facts, 1));
}

export class ModelPage implements View {
  readonly title = "Model";
  private readonly card = h("div", { class: "model-card" });
  readonly element = h("section", { class: "model" }, h("h1", {}, "Model"), this.card);
  private stopped = false;

  constructor(private readonly api: Api) {}

  start(): void {
    void this.load();
  }

  stop(): void {
    this.stopped = true;
  }

  private async load(): Promise<void> {
    try {
      const card = await this.api.model();
      if (!this.stopped) this.card.replaceChildren(...(isFacts(card) ? sections(card) : []));
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.card.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
    }
  }
}
