/** The ward board: every bed a card, those that need a person first; only cards in view exist. */

import { attribute, h, PRIORITY_MARK, text } from "./dom";
import { duration, freshness, kindLabel, number, percent, riskLabel, signalValue } from "./format";
import { compareBeds, unanswered } from "./rank";
import type { View } from "./view";
import type { Bed, Ward } from "./ward";

const VITALS = [
  ["hr", "HR"],
  ["spo2", "SpO₂"],
  ["map", "MAP"],
  ["resp", "RR"],
  ["temp", "Temp"],
] as const;

/** Card sizes in rem; a card's height is fixed so that its place is known without layout. */
const SIZES = {
  large: { width: 20.5, height: 15.75, gap: 0.9 },
  compact: { width: 14.5, height: 11.75, gap: 0.6 },
} as const;
type Size = keyof typeof SIZES;
const LARGE_UP_TO = 40;

const SORT_EVERY_MS = 2_000;
const FRAME_MS = 10;
const MARGIN_ROWS = 2;

type Filter = "all" | "alerts" | "risk" | "stale";

class Card {
  readonly element: HTMLLIElement;
  readonly link: HTMLAnchorElement;
  bed: Bed | null = null;
  private readonly name = h("span", { class: "bed" });
  private readonly flag = h("span", { class: "flag" });
  private readonly values = new Map<string, { dd: HTMLElement; age: HTMLElement }>();
  private readonly risk = h("span", { class: "risk-name" });
  private readonly p = h("span", { class: "risk-p" });
  private readonly fill = h("span", { class: "fill" });
  private readonly age = h("span", { class: "age" });
  private readonly more = h("span", { class: "more" });
  private width = "";

  constructor() {
    const vitals = h("dl", { class: "vitals" });
    for (const [signal, label] of [...VITALS, ["news2", "NEWS2"] as const]) {
      const age = h("span", { class: "old" });
      const dd = h("dd", { class: "v" });
      vitals.append(h("div", { class: "tile" }, h("dt", {}, `${label} `, age), dd));
      this.values.set(signal, { dd, age });
    }
    this.link = h(
      "a",
      { tabindex: "-1" },
      h("span", { class: "top" }, this.name, this.flag),
      vitals,
      h(
        "span",
        { class: "risk" },
        this.risk,
        this.p,
        h("span", { class: "bar", "aria-hidden": "true" }, this.fill, h("span", { class: "tick" })),
      ),
      h("span", { class: "foot" }, this.age, this.more),
    );
    this.element = h("li", { class: "card" }, this.link);
  }

  /** Shows a bed; writes only what changed. */
  show(bed: Bed, ward: Ward): void {
    if (this.bed !== bed) {
      this.bed = bed;
      this.element.dataset["bed"] = bed.id;
      text(this.name, bed.id);
      attribute(this.link, "href", `#/bed/${encodeURIComponent(bed.id)}`);
    }
    const age = ward.age(bed);
    const stale = ward.stale(bed);
    const alert = bed.alerts.find(unanswered);
    const prediction = bed.prediction;
    const kind = alert ? alert.priority : stale ? "stale" : bed.lead?.positive ? "risk" : "calm";
    attribute(
      this.element,
      "class",
      `card ${kind}${stale ? " is-stale" : ""}${bed.lead?.positive ? " positive" : ""}${alert?.state === "escalated" ? " escalated" : ""}`,
    );
    text(this.flag, this.flagText(bed, stale, age));

    for (const [signal] of VITALS) {
      const slot = this.values.get(signal);
      const input = prediction?.inputs[signal];
      if (slot === undefined) continue;
      text(slot.dd, input ? signalValue(signal, input.v) : "–");
      const old = input !== undefined && freshness(signal, input.age_ms + (age ?? 0)) !== "fresh";
      text(slot.age, old && input ? duration(input.age_ms + (age ?? 0)) : "");
    }
    const news = prediction?.scores["news2"];
    const slot = this.values.get("news2");
    if (slot !== undefined) {
      text(slot.dd, number(news?.value ?? null));
      text(slot.age, news && news.value !== null && news.missing.length > 0 ? "partial" : "");
    }

    const lead = bed.lead;
    if (lead === null) {
      text(this.risk, prediction?.status === "warming_up" ? "Warming up: no risk yet" : "No prediction");
      text(this.p, "");
      this.setWidth(0);
    } else {
      text(this.risk, `${lead.positive ? "▲ " : ""}${riskLabel(lead.name)}`);
      text(this.p, percent(lead.p));
      // Logarithmic about the threshold, which is drawn at two thirds of the bar.
      const known = ward.thresholds[lead.name] !== undefined;
      this.setWidth(known ? (Math.log2(lead.relative) + 4) / 6 : lead.p);
      attribute(this.link, "data-threshold", known ? "known" : null);
    }
    const seen = age === null ? "never heard" : age < 1000 ? "now" : `${duration(age)} ago`;
    text(this.age, stale ? `last data ${seen}` : seen);
    const answered = bed.alerts.filter((other) => !unanswered(other));
    text(this.more, answered.length > 0 ? `${answered.length} answered` : "");
  }

  private flagText(bed: Bed, stale: boolean, age: number | null): string {
    const open = bed.alerts.filter(unanswered);
    const words: string[] = [];
    if (stale) words.push(`▨ STALE ${age === null ? "" : duration(age)}`.trim());
    const first = open[0];
    if (first !== undefined && !(stale && first.kind === "silence")) {
      const mark = PRIORITY_MARK[first.priority];
      const escalated = first.state === "escalated" ? " ESCALATED" : "";
      const others = open.length > 1 ? ` +${open.length - 1}` : "";
      words.push(`${mark.shape} ${mark.stars} ${kindLabel(first.kind)}${escalated}${others}`);
    }
    return words.join(" · ");
  }

  private setWidth(share: number): void {
    const width = `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%`;
    if (width !== this.width) this.fill.style.width = this.width = width;
  }
}

export class Board implements View {
  readonly element: HTMLElement;
  readonly title = "Ward";
  private readonly list = h("ul", { class: "cells", "aria-label": "Beds, most urgent first" });
  private readonly search = h("input", {
    type: "search",
    id: "search",
    placeholder: "Find a bed",
    "aria-label": "Find a bed",
    autocomplete: "off",
  });
  private readonly filters = new Map<Filter, { button: HTMLButtonElement; count: HTMLElement }>();
  private readonly size = h("select", { "aria-label": "Size of the cards" });
  private readonly empty = h("p", { class: "empty" });
  private readonly cards = new Map<string, Card>();
  private readonly pool: Card[] = [];
  private readonly dirty = new Set<string>();
  private order: Bed[] = [];
  private filter: Filter = "all";
  private focusId: string | null = null;
  private columns = 1;
  private rowPx = 100;
  private frame = 0;
  private sortedAt = -1e9;
  private layoutWanted = true;
  private sortWanted = true;
  private movedAt = -1e9;
  private scrollTop = 0;
  private timer = 0;
  private unsubscribe: () => void = () => undefined;
  private readonly observer: ResizeObserver;

  constructor(private readonly ward: Ward) {
    const names: [Filter, string][] = [
      ["all", "All"],
      ["alerts", "Alerts"],
      ["risk", "At risk"],
      ["stale", "Stale"],
    ];
    const group = h("div", { class: "filters", role: "group", "aria-label": "Show" });
    for (const [filter, label] of names) {
      const count = h("span", { class: "count" }, "0");
      const pressed = String(filter === this.filter);
      const button = h("button", { type: "button", "aria-pressed": pressed }, `${label} `, count);
      button.addEventListener("click", () => this.setFilter(filter));
      group.append(button);
      this.filters.set(filter, { button, count });
    }
    for (const [value, label] of [
      ["auto", "Cards: automatic"],
      ["large", "Cards: large"],
      ["compact", "Cards: compact"],
    ] as const)
      this.size.append(h("option", { value }, label));
    this.size.value = localStorage.getItem("vitalstream.cards") ?? "auto";
    this.size.addEventListener("change", () => {
      localStorage.setItem("vitalstream.cards", this.size.value);
      this.want({ layout: true });
    });
    this.search.addEventListener("input", () => this.want({ sort: true, now: true }));
    this.element = h(
      "section",
      { class: "board" },
      h("h1", { class: "sr-only" }, "Ward board"),
      h("div", { class: "tools" }, this.search, group, this.size),
      this.empty,
      this.list,
    );
    this.observer = new ResizeObserver(() => this.want({ layout: true }));
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    this.list.addEventListener("focusin", (event) => {
      const card = (event.target as Element).closest<HTMLElement>(".card");
      if (card?.dataset["bed"]) this.setFocus(card.dataset["bed"]);
    });
    this.list.addEventListener("pointermove", () => {
      this.movedAt = performance.now();
    });
  }

  start(): void {
    this.unsubscribe = this.ward.subscribe((bedId) => {
      this.dirty.add(bedId);
      this.want({});
    });
    this.observer.observe(this.element);
    addEventListener("scroll", this.onScroll, { passive: true });
    this.timer = window.setInterval(() => {
      for (const id of this.cards.keys()) this.dirty.add(id);
      this.want({ sort: true });
    }, 1_000);
    this.want({ layout: true, sort: true, now: true });
  }

  stop(): void {
    this.unsubscribe();
    this.observer.disconnect();
    removeEventListener("scroll", this.onScroll);
    clearInterval(this.timer);
    cancelAnimationFrame(this.frame);
    this.frame = 0;
  }

  focusSearch(): void {
    this.search.focus();
    this.search.select();
  }

  private readonly onScroll = (): void => {
    this.want({ layout: true });
  };

  private setFilter(filter: Filter): void {
    this.filter = filter;
    for (const [name, { button }] of this.filters)
      attribute(button, "aria-pressed", String(name === filter));
    this.want({ sort: true, now: true });
  }

  private want(what: { layout?: boolean; sort?: boolean; now?: boolean }): void {
    this.layoutWanted ||= what.layout ?? false;
    this.sortWanted ||= what.sort ?? false;
    if (what.now) this.sortedAt = -1e9;
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    this.frame = 0;
    const now = performance.now();
    if (this.sortWanted && now - this.sortedAt >= SORT_EVERY_MS && this.mayMove(now)) {
      this.sort();
      this.sortedAt = now;
      this.sortWanted = false;
      this.layoutWanted = true;
    }
    if (this.layoutWanted) this.layout();
    for (const id of this.dirty) {
      this.dirty.delete(id);
      const card = this.cards.get(id);
      if (card?.bed) card.show(card.bed, this.ward);
      if (performance.now() - now > FRAME_MS) {
        this.want({});
        return;
      }
    }
  }

  /** Cards keep their places while a hand is about to choose one. */
  private mayMove(now: number): boolean {
    return this.sortedAt < 0 || now - this.movedAt > 1_500;
  }

  private sort(): void {
    const wanted = this.search.value.trim().toLowerCase();
    const counts: Record<Filter, number> = { all: 0, alerts: 0, risk: 0, stale: 0 };
    const shown: Bed[] = [];
    for (const bed of this.ward.beds.values()) {
      this.ward.rank(bed);
      const stale = this.ward.stale(bed);
      const is: Record<Filter, boolean> = {
        all: true,
        alerts: bed.alerts.some(unanswered),
        risk: !stale && (bed.lead?.positive ?? false),
        stale,
      };
      for (const name of Object.keys(counts) as Filter[]) if (is[name]) counts[name] += 1;
      if (is[this.filter] && bed.id.toLowerCase().includes(wanted)) shown.push(bed);
    }
    shown.sort(compareBeds);
    this.order = shown;
    for (const [name, { count }] of this.filters) text(count, String(counts[name]));
    const nobody = counts.all === 0 ? "No bed has been heard yet." : "No bed matches.";
    text(this.empty, shown.length === 0 ? nobody : "");
    this.empty.hidden = shown.length > 0;
    if (this.focusId === null || !shown.some((bed) => bed.id === this.focusId))
      this.focusId = shown[0]?.id ?? null;
  }

  private layout(): void {
    this.layoutWanted = false;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const chosen = this.size.value as Size | "auto";
    const wall = this.order.length <= LARGE_UP_TO;
    const name: Size = chosen === "auto" ? (wall ? "large" : "compact") : chosen;
    const size = SIZES[name];
    const box = this.list.getBoundingClientRect();
    const gap = size.gap * rem;
    this.columns = Math.max(1, Math.floor((box.width + gap) / (size.width * rem + gap)));
    const width = (box.width - gap * (this.columns - 1)) / this.columns;
    this.rowPx = size.height * rem + gap;
    attribute(this.list, "data-size", name);
    const rows = Math.ceil(this.order.length / this.columns);
    this.list.style.height = `${Math.max(0, rows * this.rowPx - gap)}px`;
    this.scrollTop = -box.top;
    const from = Math.max(0, Math.floor(this.scrollTop / this.rowPx) - MARGIN_ROWS);
    const to = Math.ceil((this.scrollTop + innerHeight) / this.rowPx) + MARGIN_ROWS;
    const visible = this.order.slice(from * this.columns, to * this.columns);
    const held = new Set(visible.map((bed) => bed.id));
    for (const [id, card] of this.cards) {
      if (held.has(id) || card.element.contains(document.activeElement)) continue;
      card.element.remove();
      this.cards.delete(id);
      this.pool.push(card);
    }
    let next = this.list.firstElementChild;
    visible.forEach((bed, i) => {
      const index = from * this.columns + i;
      let card = this.cards.get(bed.id);
      if (card === undefined) {
        card = this.pool.pop() ?? new Card();
        this.cards.set(bed.id, card);
        card.show(bed, this.ward);
      }
      const style = card.element.style;
      const x = (index % this.columns) * (width + gap);
      const y = Math.floor(index / this.columns) * this.rowPx;
      style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
      style.width = `${width.toFixed(1)}px`;
      style.height = `${(size.height * rem).toFixed(1)}px`;
      attribute(card.element, "aria-posinset", String(index + 1));
      attribute(card.element, "aria-setsize", String(this.order.length));
      attribute(card.link, "tabindex", bed.id === this.focusId ? "0" : "-1");
      // The order in the document is the order on the board; a card in its place is not touched.
      if (card.element === next) next = next.nextElementSibling;
      else this.place(card, next);
    });
  }

  private place(card: Card, before: Element | null): void {
    const focused = card.link === document.activeElement;
    this.list.insertBefore(card.element, before);
    if (focused) card.link.focus({ preventScroll: true });
  }

  private setFocus(bedId: string): void {
    if (this.focusId !== null)
      this.cards.get(this.focusId)?.link.setAttribute("tabindex", "-1");
    this.focusId = bedId;
    this.cards.get(bedId)?.link.setAttribute("tabindex", "0");
  }

  private onKey(event: KeyboardEvent): void {
    const steps: Record<string, number> = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: this.columns,
      ArrowUp: -this.columns,
      Home: -Infinity,
      End: Infinity,
    };
    const step = steps[event.key];
    const at = this.order.findIndex((bed) => bed.id === this.focusId);
    if (step === undefined || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const last = this.order.length - 1;
    const index = Math.abs(step) === Infinity ? (step > 0 ? last : 0) : at + step;
    const bed = this.order[index];
    if (bed === undefined) return;
    this.movedAt = performance.now();
    const top = scrollY + this.list.getBoundingClientRect().top;
    const y = top + Math.floor(index / this.columns) * this.rowPx;
    const head = document.querySelector("header")?.getBoundingClientRect().height ?? 0;
    if (y - head < scrollY) scrollTo({ top: y - head - 8, behavior: "instant" });
    else if (y + this.rowPx + 48 > scrollY + innerHeight)
      scrollTo({ top: y + this.rowPx + 48 - innerHeight, behavior: "instant" });
    this.setFocus(bed.id);
    this.layout();
    this.cards.get(bed.id)?.link.focus({ preventScroll: true });
  }
}
