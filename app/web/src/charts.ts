/** Charts on uPlot, in the colours of the theme. */

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { percent } from "./format";
import type { Columns } from "./series";

const SYNC = uPlot.sync("bed");

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(extra: Partial<uPlot.Axis> = {}): uPlot.Axis {
  const line = { stroke: colour("--grid"), width: 1 };
  return {
    stroke: colour("--muted"),
    font: "12px system-ui, sans-serif",
    grid: line,
    ticks: { ...line, size: 4 },
    ...extra,
  };
}

const TIMES = (_plot: uPlot, splits: number[]): string[] => {
  const span = (splits.at(-1) ?? 0) - (splits[0] ?? 0);
  return splits.map((s, i) => {
    const date = new Date(s * 1000);
    const time = `${String(date.getHours()).padStart(2, "0")}:${String(date.getMinutes()).padStart(2, "0")}`;
    const newDay = span > 86_400 && (i === 0 || date.getHours() < 6);
    return newDay ? `${time}\n${date.getDate()}.${date.getMonth() + 1}.` : time;
  });
};

export interface ChartLine {
  label: string;
  colour: string;
  dash?: number[];
}

/** A chart that follows the width of its host. */
export class Chart {
  private plot: uPlot | null = null;
  private readonly resize: ResizeObserver;
  private data: Columns = [];
  private from = 0;
  private to = 1;

  constructor(
    private readonly host: HTMLElement,
    private readonly height: number,
    private readonly lines: ChartLine[],
    /** "band": columns mean, min, max of one signal; "risk": one column a line, 0 to 1. */
    private readonly kind: "band" | "risk",
    private readonly decimals = 0,
  ) {
    this.resize = new ResizeObserver(() => {
      const width = this.host.clientWidth;
      if (this.plot !== null && width > 0 && width !== this.plot.width)
        this.plot.setSize({ width, height: this.height });
    });
    this.resize.observe(host);
  }

  draw(data: Columns, fromS: number, toS: number): void {
    this.data = data;
    this.from = fromS;
    this.to = toS;
    if (this.plot === null) this.plot = this.make();
    else this.plot.setData(data as uPlot.AlignedData);
  }

  /** Draws anew, after the theme changed. */
  restyle(): void {
    this.plot?.destroy();
    this.plot = this.data.length > 0 ? this.make() : null;
  }

  destroy(): void {
    this.resize.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  private make(): uPlot {
    const risk = this.kind === "risk";
    const first = this.lines[0];
    const stroke = colour(first?.colour ?? "--text");
    const show = (_plot: uPlot, value: number | null): string =>
      value === null ? "–" : risk ? percent(value) : value.toFixed(this.decimals);
    const edge = { width: 0, points: { show: false }, stroke: "transparent", value: show };
    const series: uPlot.Series[] = risk
      ? this.lines.map((line) => ({
          label: line.label,
          stroke: colour(line.colour),
          width: 2,
          points: { show: false },
          value: show,
          ...(line.dash?.length ? { dash: line.dash } : {}),
        }))
      : [
          { label: "mean", stroke, width: 2, points: { show: false }, value: show },
          { ...edge, label: "min" },
          { ...edge, label: "max" },
        ];
    const options: uPlot.Options = {
      width: Math.max(200, this.host.clientWidth),
      height: this.height,
      cursor: { sync: { key: SYNC.key }, drag: { x: false, y: false }, y: false },
      legend: { show: true, live: true },
      scales: {
        x: { time: true, range: () => [this.from, this.to] },
        y: risk
          ? { range: (_plot, _low, high) => [0, Math.min(1, Math.max(0.1, (high ?? 0) * 1.15))] }
          : {
              range: (_plot, low, high) => {
                const pad = Math.max(1.5, ((high ?? 1) - (low ?? 0)) * 0.12);
                return [(low ?? 0) - pad, (high ?? 1) + pad];
              },
            },
      },
      axes: [
        axis({ values: TIMES, space: 64 }),
        axis({
          size: 44,
          space: 22,
          ...(risk ? { values: (_plot, splits) => splits.map((v) => `${Math.round(v * 100)} %`) } : {}),
        }),
      ],
      series: [
        {
          label: "time",
          value: (_plot, s) => (s === null ? "–" : new Date(s * 1000).toLocaleTimeString()),
        },
        ...series,
      ],
      ...(risk ? {} : { bands: [{ series: [3, 2] as [number, number], fill: `${stroke}40` }] }),
    };
    return new uPlot(options, this.data as uPlot.AlignedData, this.host);
  }
}
