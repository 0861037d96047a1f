/** Alerts: one item with its actions, and the inbox that lists them. */

import { announce } from "./announce";
import { ProblemError, type Api } from "./api";
import { attribute, h, priorityMark, text } from "./dom";
import { alertValue, clock, duration, kindLabel } from "./format";
import { compareAlerts, unanswered } from "./rank";
import type { Action, Alert, AlertState } from "./types";
import type { View } from "./view";
import type { Ward } from "./ward";

const ALLOWED: Record<Action, readonly AlertState[]> = {
  acknowledge: ["open", "escalated", "snoozed"],
  snooze: ["open", "escalated", "acknowledged"],
  escalate: ["open", "acknowledged", "snoozed"],
};
const LABEL: Record<Action, string> = {
  acknowledge: "Acknowledge",
  snooze: "Snooze",
  escalate: "Escalate",
};
const STATE: Record<AlertState, string> = {
  open: "Open",
  acknowledged: "✓ Acknowledged",
  snoozed: "Snoozed",
  escalated: "⇑ Escalated",
  closed: "Closed",
};
const REASONS: Record<Action, string[]> = {
  acknowledge: ["Seen at the bedside", "Treatment under way", "Known and expected"],
  snooze: ["Artefact: signal being fixed", "Treatment under way", "Procedure at the bed"],
  escalate: ["Physician needed now", "Getting worse", "Nobody at the bed"],
};
const NAMED = "vitalstream.by";
const SNOOZE_MOST_MINUTES = 60;

let serial = 0;

export class AlertItem {
  readonly element = h("article", { class: "alert" });
  private readonly head = h("div", { class: "alert-head" });
  private readonly facts = h("p", { class: "facts" });
  private readonly buttons = h("div", { class: "actions" });
  private readonly form = h("form", { class: "act", hidden: true });
  private readonly error = h("p", { class: "error", role: "alert" });
  private readonly history = h("ol", { class: "history" });
  private readonly byAction = new Map<Action, HTMLButtonElement>();
  private drawn = "";

  constructor(
    private alert: Alert,
    private readonly api: Api,
    private readonly ward: Ward,
    showBed: boolean,
  ) {
    const label = `alert-${(serial += 1)}`;
    attribute(this.element, "aria-labelledby", label);
    this.head.id = label;
    for (const action of Object.keys(ALLOWED) as Action[]) {
      const button = h("button", { type: "button", "data-action": action }, LABEL[action]);
      button.addEventListener("click", () => this.ask(action));
      this.buttons.append(button);
      this.byAction.set(action, button);
    }
    const more = h("details", {}, h("summary", {}, "History"), this.history);
    this.element.append(this.head, this.facts, this.buttons, this.form, this.error, more);
    this.update(alert, showBed);
  }

  update(alert: Alert, showBed: boolean): void {
    this.alert = alert;
    const now = this.api.now();
    const mark = JSON.stringify([alert.updated_ms, alert.state, alert.value, alert.history.length]);
    const since = `for ${duration(now - alert.opened_ms)}`;
    const measured = alertValue(alert.kind, alert.value);
    const limit = alertValue(alert.kind, alert.threshold);
    const facts = [
      measured ? `value ${measured}` : "",
      limit ? `threshold ${limit}` : "",
      `opened ${clock(alert.opened_ms, now)}`,
      alert.state === "closed" ? `closed ${clock(alert.updated_ms, now)}` : since,
    ];
    text(this.facts, facts.filter(Boolean).join(" · "));
    if (mark === this.drawn) return;
    this.drawn = mark;
    attribute(
      this.element,
      "class",
      `alert ${alert.priority} ${alert.state}${unanswered(alert) ? " unanswered" : ""}`,
    );
    this.element.dataset["alert"] = alert.id;
    const bed = h("a", { class: "bed", href: `#/bed/${encodeURIComponent(alert.bed_id)}` });
    bed.append(`Bed ${alert.bed_id}`);
    this.head.replaceChildren(
      priorityMark(alert.priority),
      ...(showBed ? [bed] : []),
      h("strong", {}, kindLabel(alert.kind)),
      h("span", { class: "state" }, STATE[alert.state]),
    );
    for (const [action, button] of this.byAction)
      button.hidden = !ALLOWED[action].includes(alert.state);
    this.history.replaceChildren(
      ...alert.history.map((change) =>
        h(
          "li",
          {},
          h("time", { datetime: new Date(change.ms).toISOString() }, clock(change.ms, now)),
          ` ${change.action} by ${change.by}${change.reason ? `: “${change.reason}”` : ""}`,
        ),
      ),
    );
  }

  private ask(action: Action): void {
    const id = `reason-${(serial += 1)}`;
    const reason = h("input", { id, list: `${id}-list`, maxlength: "500", autocomplete: "off" });
    const by = h("input", { id: `${id}-by`, maxlength: "100", autocomplete: "off" });
    by.value = sessionStorage.getItem(NAMED) ?? "";
    const options = h("datalist", { id: `${id}-list` });
    options.append(...REASONS[action].map((value) => h("option", { value })));
    const minutes = h("input", {
      id: `${id}-minutes`,
      type: "number",
      min: "1",
      max: String(SNOOZE_MOST_MINUTES),
      value: "15",
      required: true,
    });
    const confirm = h("button", { type: "submit", class: "primary" }, `${LABEL[action]} now`);
    const cancel = h("button", { type: "button" }, "Cancel");
    const close = (): void => {
      this.form.hidden = true;
      this.byAction.get(action)?.focus();
    };
    cancel.addEventListener("click", close);
    this.form.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
    };
    this.form.onsubmit = (event) => {
      event.preventDefault();
      confirm.disabled = true;
      const length = action === "snooze" ? minutes.valueAsNumber : undefined;
      sessionStorage.setItem(NAMED, by.value.trim());
      const given = { reason: reason.value.trim(), by: by.value.trim(), minutes: length };
      void this.send(action, given).finally(() => {
        confirm.disabled = false;
      });
    };
    text(this.error, "");
    this.form.replaceChildren(
      h("label", { for: id }, "Reason (kept with the alert)"),
      reason,
      options,
      h("label", { for: by.id }, "Your name or initials"),
      by,
      ...(action === "snooze"
        ? [h("label", { for: minutes.id }, `Minutes, at most ${SNOOZE_MOST_MINUTES}`), minutes]
        : []),
      h("div", { class: "actions" }, confirm, cancel),
    );
    this.form.hidden = false;
    reason.focus();
  }

  private async send(
    action: Action,
    given: { reason: string; by: string; minutes: number | undefined },
  ): Promise<void> {
    try {
      this.ward.alert(await this.api.act(this.alert.id, action, given));
      this.form.hidden = true;
      this.byAction.forEach((button) => {
        if (document.activeElement === document.body && !button.hidden) button.focus();
      });
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      const changed = error.status === 409 ? "Somebody else was first: " : "Not done: ";
      text(this.error, changed + error.message);
      // Answered by somebody else, it may have left the list, and its error with it.
      if (!this.element.isConnected) announce(changed + error.message);
      if (error.status === 409) await this.refresh();
    }
  }

  private async refresh(): Promise<void> {
    const bed = await this.api.bed(this.alert.bed_id);
    for (const alert of bed.alerts) this.ward.alert(alert);
  }
}

type Tab = "unanswered" | "answered" | "closed";

export class Inbox implements View {
  readonly element: HTMLElement;
  readonly title = "Alerts";
  private readonly list = h("div", { class: "alerts", tabindex: "-1" });
  private readonly tabs = new Map<Tab, HTMLButtonElement>();
  private readonly items = new Map<string, AlertItem>();
  private tab: Tab = "unanswered";
  private timer = 0;
  private frame = 0;
  private unsubscribe: () => void = () => undefined;

  constructor(
    private readonly api: Api,
    private readonly ward: Ward,
  ) {
    const group = h("div", { class: "filters", role: "group", "aria-label": "Show alerts" });
    for (const [tab, label] of [
      ["unanswered", "Waiting for a person"],
      ["answered", "Acknowledged or snoozed"],
      ["closed", "Closed"],
    ] as const) {
      const button = h("button", { type: "button", "aria-pressed": String(tab === this.tab) }, label);
      button.addEventListener("click", () => void this.choose(tab));
      group.append(button);
      this.tabs.set(tab, button);
    }
    this.element = h(
      "section",
      { class: "inbox" },
      h("h1", {}, "Alerts"),
      h("div", { class: "tools" }, group),
      this.list,
    );
  }

  start(): void {
    this.unsubscribe = this.ward.subscribeAlerts(() => this.want());
    this.timer = window.setInterval(() => this.want(), 1_000);
    this.draw();
  }

  stop(): void {
    this.unsubscribe();
    clearInterval(this.timer);
    cancelAnimationFrame(this.frame);
  }

  private async choose(tab: Tab): Promise<void> {
    this.tab = tab;
    for (const [name, button] of this.tabs)
      attribute(button, "aria-pressed", String(name === tab));
    this.draw();
    if (tab !== "closed") return;
    for (const alert of await this.api.alerts("closed")) this.ward.alert(alert);
    this.draw();
  }

  private want(): void {
    if (this.frame !== 0) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private belongs(alert: Alert): boolean {
    if (this.tab === "closed") return alert.state === "closed";
    return alert.state !== "closed" && unanswered(alert) === (this.tab === "unanswered");
  }

  private draw(): void {
    const all = [...this.ward.alerts.values()];
    const counts = {
      unanswered: all.filter(unanswered).length,
      answered: all.filter((a) => a.state === "acknowledged" || a.state === "snoozed").length,
    };
    const words = { unanswered: "Waiting for a person", answered: "Acknowledged or snoozed" };
    for (const name of ["unanswered", "answered"] as const) {
      const button = this.tabs.get(name);
      if (button) text(button, `${words[name]} (${counts[name]})`);
    }
    const shown = all.filter((alert) => this.belongs(alert)).sort(compareAlerts).slice(0, 200);
    const ids = new Set(shown.map((alert) => alert.id));
    for (const [id, item] of this.items) {
      if (ids.has(id)) continue;
      if (item.element.contains(document.activeElement)) this.list.focus();
      item.element.remove();
      this.items.delete(id);
    }
    this.list.querySelector(".empty")?.remove();
    if (shown.length === 0) this.list.append(h("p", { class: "empty" }, "No alert here."));
    let next = this.list.firstElementChild;
    for (const alert of shown) {
      let item = this.items.get(alert.id);
      if (item === undefined) {
        item = new AlertItem(alert, this.api, this.ward, true);
        this.items.set(alert.id, item);
      } else item.update(alert, true);
      // Moving an item takes the focus out of its form: only those out of place are moved.
      if (item.element === next) next = next.nextElementSibling;
      else this.list.insertBefore(item.element, next);
    }
  }
}
