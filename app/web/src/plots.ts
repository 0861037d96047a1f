/** Small plots as SVG: lines, error bars, bounds of a group. Colours come from classes. */

import { h } from "./dom";

export type Point = readonly [number, number];

export interface Series {
  name: string;
  /** Class of the colour: model, other, third, plain. */
  kind: string;
  points: Point[];
  dots?: boolean;
  dashed?: boolean;
  /** Vertical error bars: x, low, high. */
  bars?: readonly (readonly [number, number, number])[];
}

interface Axis {
  label: string;
  min: number;
  max: number;
  log?: boolean;
  percent?: boolean;
}

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 260;
const HEIGHT = 190;
const EDGE = { left: 40, right: 8, top: 8, bottom: 34 };

function s(tag: string, attributes: Record<string, string | number>, ...children: (Node | string)[]): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Round numbers across a range, about four; decades and their halves on a logarithmic one. */
export function ticks(min: number, max: number, log = false): number[] {
  const out: number[] = [];
  if (log) {
    for (let decade = Math.floor(Math.log10(min)); decade <= Math.log10(max); decade++)
      for (const step of [1, 3]) {
        const value = Number((step * 10 ** decade).toPrecision(3));
        if (value >= min * 0.999 && value <= max * 1.001) out.push(value);
      }
    return out;
  }
  const rough = (max - min) / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= rough) ?? 10 * unit;
  for (let i = Math.ceil(min / step); i * step <= max + step / 1e6; i++) out.push(Number((i * step).toPrecision(6)));
  return out;
}

function named(value: number, axis: Axis): string {
  if (!axis.percent) return String(Number(value.toPrecision(3)));
  return `${Number((100 * value).toPrecision(3))}%`;
}

function scale(axis: Axis, from: number, to: number): (value: number) => number {
  const at = axis.log ? Math.log10 : (x: number) => x;
  const low = at(axis.min);
  const span = at(axis.max) - low || 1;
  return (value) => {
    const kept = Math.min(Math.max(value, axis.min), axis.max);
    return Number((from + ((at(kept) - low) / span) * (to - from)).toFixed(2));
  };
}

/** A figure with axes, a legend and a text for those who do not see it. */
export function plot(title: string, x: Axis, y: Axis, series: Series[]): HTMLElement {
  const atX = scale(x, EDGE.left, WIDTH - EDGE.right);
  const atY = scale(y, HEIGHT - EDGE.bottom, EDGE.top);
  const svg = s("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": `${title}: ${y.label} over ${x.label}; ${series.map((each) => each.name).join(", ")}`,
    class: "mplot",
  });
  for (const value of ticks(y.min, y.max, y.log))
    svg.append(
      s("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: atY(value), y2: atY(value) }),
      s("text", { x: EDGE.left - 4, y: atY(value) + 3, "text-anchor": "end" }, named(value, y)),
    );
  for (const value of ticks(x.min, x.max, x.log))
    svg.append(
      s("line", { class: "grid", x1: atX(value), x2: atX(value), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
      s("text", { x: atX(value), y: HEIGHT - EDGE.bottom + 12, "text-anchor": "middle" }, named(value, x)),
    );
  svg.append(
    s("text", { class: "axis", x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x.label),
  );
  for (const each of series) svg.append(drawn(each, atX, atY));
  return h(
    "figure",
    { class: "mplot-figure" },
    h("figcaption", {}, h("strong", {}, title), h("span", { class: "muted" }, ` ${y.label}`)),
    svg as unknown as HTMLElement,
    h(
      "ul",
      { class: "legend" },
      ...series
        .filter((each) => each.name !== "")
        .map((each) => h("li", { class: `key ${each.kind}${each.dashed ? " dashed" : ""}` }, each.name)),
    ),
  );
}

function drawn(each: Series, atX: (v: number) => number, atY: (v: number) => number): SVGElement {
  const group = s("g", { class: `series ${each.kind}${each.dashed ? " dashed" : ""}` });
  const path = each.points.map(([px, py], i) => `${i === 0 ? "M" : "L"}${atX(px)} ${atY(py)}`).join("");
  if (each.points.length > 1) group.append(s("path", { d: path }));
  for (const [px, low, high] of each.bars ?? [])
    group.append(s("line", { x1: atX(px), x2: atX(px), y1: atY(low), y2: atY(high) }));
  if (each.dots) for (const [px, py] of each.points) group.append(s("circle", { cx: atX(px), cy: atY(py), r: 2.4 }));
  return group;
}

export interface Span {
  name: string;
  value: number;
  low: number;
  high: number;
}

/** A line for each group: the value with its interval, on one common axis. */
export function forest(title: string, label: string, rows: Span[]): HTMLElement {
  const step = 15;
  const left = 92;
  const height = rows.length * step + EDGE.top + EDGE.bottom;
  const min = Math.min(...rows.map((row) => row.low));
  const max = Math.max(...rows.map((row) => row.high));
  const pad = (max - min) * 0.05 || 0.01;
  const axis = { label, min: min - pad, max: max + pad };
  const atX = scale(axis, left, WIDTH - EDGE.right);
  const svg = s("svg", {
    viewBox: `0 0 ${WIDTH} ${height}`,
    role: "img",
    "aria-label": `${title}: ${rows.map((row) => `${row.name} ${row.value.toFixed(3)}`).join(", ")}`,
    class: "mplot",
  });
  for (const value of ticks(axis.min, axis.max))
    svg.append(
      s("line", { class: "grid", x1: atX(value), x2: atX(value), y1: EDGE.top, y2: height - EDGE.bottom }),
      s("text", { x: atX(value), y: height - EDGE.bottom + 12, "text-anchor": "middle" }, String(value)),
    );
  rows.forEach((row, i) => {
    const y = EDGE.top + (i + 0.5) * step;
    svg.append(
      s("text", { x: left - 5, y: y + 3, "text-anchor": "end" }, row.name),
      s(
        "g",
        { class: "series model" },
        s("line", { x1: atX(row.low), x2: atX(row.high), y1: y, y2: y }),
        s("circle", { cx: atX(row.value), cy: y, r: 2.6 }),
      ),
    );
  });
  svg.append(s("text", { class: "axis", x: (left + WIDTH) / 2, y: height - 6, "text-anchor": "middle" }, label));
  return h("figure", { class: "mplot-figure" }, h("figcaption", {}, h("strong", {}, title)), svg as unknown as HTMLElement);
}
