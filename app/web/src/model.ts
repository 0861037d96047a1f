/** The model card as `/v1/model` gives it: any nesting of facts, as headings, lists and tables. */

import { ProblemError, type Api } from "./api";
import { h } from "./dom";
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
      if (!this.stopped) this.card.replaceChildren(render(card, 0));
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.card.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
    }
  }
}
