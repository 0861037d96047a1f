/** Series for the charts. Pure. */

export type Row = [number, number, number, number];
export type Columns = (number | null)[][];

/** Columns x (s), mean, min, max of `[ts_ms, mean, min, max]` rows; nulls break the line at gaps. */
export function withGaps(rows: readonly Row[], stepMs: number): Columns {
  const columns: Columns = [[], [], [], []];
  let before: number | null = null;
  for (const [ts, mean, low, high] of rows) {
    if (before !== null && ts - before > 2.5 * stepMs) {
      columns[0]?.push((before + stepMs) / 1000);
      for (const column of columns.slice(1)) column.push(null);
    }
    [ts / 1000, mean, low, high].forEach((value, i) => columns[i]?.push(value));
    before = ts;
  }
  return columns;
}

/** Width of a trend's step for a range, so that a chart has a few hundred points, in s. */
export function stepFor(hours: number): number {
  return hours <= 6 ? 60 : hours <= 24 ? 300 : 900;
}

/** A sentence that says what a chart shows, for those who do not see it. */
export function summary(label: string, unit: string, rows: readonly Row[], hours: number): string {
  const last = rows.at(-1);
  if (last === undefined) return `${label}: nothing measured in the last ${hours} h`;
  const low = Math.min(...rows.map((row) => row[2]));
  const high = Math.max(...rows.map((row) => row[3]));
  const round = (value: number): string => String(Math.round(value * 10) / 10);
  const range = `lowest ${round(low)}, highest ${round(high)}`;
  return `${label}, last ${hours} h: latest ${round(last[1])} ${unit}, ${range}`.replace("  ", " ");
}
