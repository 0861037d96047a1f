/** The page's frame: token, live stream, routes by the URL's fragment, theme and keys. */

import "./style.css";

import { Inbox } from "./alerts";
import { announce, announcements } from "./announce";
import { Api, ProblemError, takeToken } from "./api";
import { BedPage } from "./bed";
import { Board } from "./board";
import { attribute, h, text } from "./dom";
import { duration, kindLabel } from "./format";
import { LiveStream, type Connection } from "./live";
import { ModelPage } from "./model";
import { thresholdsIn, unanswered } from "./rank";
import type { Alert, BedSummary, Prediction } from "./types";
import type { View } from "./view";
import { Ward } from "./ward";

const NOTICE =
  "Research software: not a medical device, never the primary alarm, no diagnosis. Watch the patient and the bedside monitor.";
const RISKS = ["sepsis", "mortality", "hypotension", "hypoxaemia"];
const KEYS: [string, string][] = [
  ["w", "Ward board"],
  ["a", "Alerts"],
  ["m", "Model"],
  ["/", "Find a bed"],
  ["t", "Dark or light"],
  ["?", "This list"],
  ["Arrows, Home, End", "Move over the board"],
  ["Enter", "Open the bed"],
  ["Esc", "Back to the ward"],
];

const api = new Api(takeToken());
const ward = new Ward(() => api.now());
const main = h("main", { id: "main", tabindex: "-1" });
const connection = h("div", { class: "connection", role: "status" });
const banner = h("div", { class: "banner", role: "alert", hidden: true });
const theme = h("button", { type: "button", class: "quiet" }, "Theme");
const help = h("button", { type: "button", class: "quiet", "aria-label": "Keyboard shortcuts" }, "?");
const links = {
  ward: h("a", { href: "#/" }, "Ward"),
  alerts: h("a", { href: "#/alerts" }, "Alerts"),
  model: h("a", { href: "#/model" }, "Model"),
};
const alertCount = h("span", { class: "count" });
links.alerts.append(" ", alertCount);

let view: View | null = null;
let stream: LiveStream | null = null;
let state: Connection = "connecting";

function open(next: View): void {
  view?.stop();
  view = next;
  main.replaceChildren(next.element);
  setTitle();
  next.start();
}

function route(): void {
  if (new URLSearchParams(location.hash.slice(1)).has("token")) {
    api.setToken(takeToken());
    restart();
    return;
  }
  if (!api.hasToken) return login("");
  const [place = "", id = ""] = location.hash.replace(/^#\/?/, "").split("/");
  for (const [name, link] of Object.entries(links))
    attribute(link, "aria-current", name === (place || "ward") ? "page" : null);
  scrollTo({ top: 0, behavior: "instant" });
  if (place === "bed" && id) open(new BedPage(decodeURIComponent(id), api, ward));
  else if (place === "alerts") open(new Inbox(api, ward));
  else if (place === "model") open(new ModelPage(api));
  else open(new Board(ward));
}

function login(message: string): void {
  stream?.stop();
  stream = null;
  connection.replaceChildren();
  banner.hidden = true;
  const field = h("input", { id: "token", type: "password", autocomplete: "off", required: true });
  const form = h(
    "form",
    { class: "login" },
    h("h1", {}, "Access"),
    h("p", {}, "The address that “vitalstream run” prints carries the token. Without it, enter the token here."),
    h("label", { for: "token" }, "Token"),
    field,
    h("p", { class: "error", role: "alert" }, message),
    h("button", { type: "submit", class: "primary" }, "Open the ward"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    api.setToken(field.value.trim());
    restart();
  });
  view?.stop();
  view = null;
  document.title = "Access – vitalstream";
  main.replaceChildren(form);
  field.focus();
}

async function refresh(): Promise<void> {
  const [beds, alerts] = await Promise.all([api.beds(), api.standing()]);
  for (const bed of beds) ward.summary(bed);
  ward.forgetOthers(new Set(beds.map((bed) => bed.bed_id)));
  ward.standing(alerts);
  if (Object.keys(ward.thresholds).length > 0) return;
  try {
    ward.thresholds = thresholdsIn(await api.model(), RISKS);
  } catch (error) {
    // The board works without thresholds; a refused token or a dead server shows elsewhere.
    if (!(error instanceof ProblemError)) throw error;
  }
}

function restart(): void {
  stream?.stop();
  stream = new LiveStream(
    api,
    ({ event, data }) => {
      if (event === "prediction") ward.predicted(JSON.parse(data) as Prediction);
      else if (event === "alert") ward.alert(JSON.parse(data) as Alert);
      else if (event === "bed") ward.summary(JSON.parse(data) as BedSummary);
    },
    (now) => {
      state = now;
      showConnection();
    },
    refresh,
  );
  void stream.run();
  route();
}

function showConnection(): void {
  if (stream === null) return;
  const silentMs = performance.now() - stream.heardAt;
  const lost = state === "disconnected";
  document.body.classList.toggle("disconnected", lost);
  attribute(connection, "class", `connection ${state}`);
  const words = { live: "● Live", connecting: "○ Connecting", disconnected: "✕ Disconnected" };
  text(connection, words[state]);
  banner.hidden = !lost;
  if (lost) {
    const age = duration(silentMs);
    text(banner, `✕ DISCONNECTED – all values are old: nothing heard for ${age}. Look at the bedside monitors.`);
  }
}

function setTitle(): void {
  const waiting = [...ward.alerts.values()].filter(unanswered);
  const high = waiting.filter((alert) => alert.priority === "high").length;
  text(alertCount, waiting.length > 0 ? String(waiting.length) : "");
  attribute(alertCount, "class", `count${high > 0 ? " high" : ""}`);
  attribute(links.alerts, "aria-label", waiting.length > 0 ? `Alerts, ${waiting.length} waiting` : "Alerts");
  const title = `${high > 0 ? `(${high} ▲) ` : ""}${view?.title ?? "Ward"} – vitalstream`;
  if (view !== null && document.title !== title) document.title = title;
}

function setTheme(name: string | null): void {
  if (name === null) delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = name;
  const dark = isDark();
  text(theme, dark ? "☀ Light" : "☾ Dark");
  view?.restyle?.();
}

function isDark(): boolean {
  const chosen = document.documentElement.dataset["theme"];
  return chosen === undefined ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}

function toggleTheme(): void {
  const next = isDark() ? "light" : "dark";
  localStorage.setItem("vitalstream.theme", next);
  setTheme(next);
}

const keysOn = h("input", { type: "checkbox", id: "keys-on" });
keysOn.checked = localStorage.getItem("vitalstream.keys") !== "off";
keysOn.addEventListener("change", () =>
  localStorage.setItem("vitalstream.keys", keysOn.checked ? "on" : "off"),
);
const dialog = h(
  "dialog",
  { "aria-labelledby": "keys-title" },
  h("h2", { id: "keys-title" }, "Keyboard"),
  h("dl", { class: "keys" }, ...KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))),
  h("p", {}, keysOn, " ", h("label", { for: "keys-on" }, "Single-key shortcuts")),
  h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")),
);

function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) || dialog.open;
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.key === "Escape" && !typing && location.hash !== "#/") location.hash = "#/";
  if (typing || !keysOn.checked) return;
  const act: Record<string, () => void> = {
    w: () => (location.hash = "#/"),
    a: () => (location.hash = "#/alerts"),
    m: () => (location.hash = "#/model"),
    t: toggleTheme,
    "?": () => dialog.showModal(),
    "/": () => {
      if (view instanceof Board) view.focusSearch();
      else {
        location.hash = "#/";
        setTimeout(() => view instanceof Board && view.focusSearch());
      }
    },
  };
  const found = act[event.key];
  if (found === undefined) return;
  event.preventDefault();
  found();
}

document.body.append(
  h("a", { class: "skip", href: "#main" }, "Skip to the content"),
  h(
    "header",
    {},
    h("span", { class: "brand" }, "vitalstream"),
    h("nav", { "aria-label": "Pages" }, links.ward, links.alerts, links.model),
    connection,
    theme,
    help,
  ),
  banner,
  main,
  h("footer", {}, NOTICE),
  announcements,
  dialog,
);
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
theme.addEventListener("click", toggleTheme);
help.addEventListener("click", () => dialog.showModal());
addEventListener("keydown", onKey);
addEventListener("hashchange", route);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  setTheme(localStorage.getItem("vitalstream.theme")),
);
setInterval(() => {
  showConnection();
  setTitle();
}, 1_000);
ward.onNews = (alert) => {
  const escalated = alert.state === "escalated" ? "Escalated" : "High";
  announce(`${escalated} alert: ${kindLabel(alert.kind)}, bed ${alert.bed_id}`);
};
api.onRefused = () => {
  // Several requests may be refused at once: the first one tells.
  if (!api.hasToken) return;
  api.setToken("");
  login("The token was refused.");
};

setTheme(localStorage.getItem("vitalstream.theme"));
if (api.hasToken) restart();
else route();
