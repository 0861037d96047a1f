/** What a screen reader hears: news is added line by line, so that none replaces another unheard. */

import { h } from "./dom";

const KEPT_MS = 10_000;

/** Assertive: an alert that needs a person interrupts. */
export const announcements = h("div", {
  class: "sr-only",
  role: "log",
  "aria-live": "assertive",
  "aria-relevant": "additions",
  "aria-label": "Announcements",
});

/** Says something once, also where the same was said before. */
export function announce(words: string): void {
  const line = h("p", {}, words);
  announcements.append(line);
  setTimeout(() => line.remove(), KEPT_MS);
}
