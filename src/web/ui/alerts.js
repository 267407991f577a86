// Alerts: what is told to one person after the other until somebody has it in hand, and how far
// each notification has come. Acknowledging is one press; nothing else is done from here.

import { gather, get, post } from "./api.js";
import { chip, fill, h, icon } from "./dom.js";
import { ago, moment } from "./words.js";

/** Many stream events in a row cause one fetch. */
const FETCH_PAUSE_MS = 500;
/** Alerts that are over stay in sight for a day. */
const OVER_MS = 24 * 3600 * 1000;
const OVER_MAX = 3;

/** How far a notification has come: [words, tone]. */
const STATES = {
  sent: ["not taken yet", "warn"],
  failed: ["not delivered", "bad"],
  accepted: ["on its way", "plain"],
  shown: ["shown", "good"],
  opened: ["opened", "good"],
};

/** `problem(words)` says what went wrong. */
export function makeAlerts(box, { problem }) {
  let shown = "";

  const { soon, cancel } = gather(() => refresh(), FETCH_PAUSE_MS);

  async function refresh() {
    const { alerts } = await get("/api/alerts");
    const open = alerts.filter((one) => !one.acked);
    const over = alerts.filter((one) => one.acked && Date.now() - Date.parse(one.begun) < OVER_MS).slice(0, OVER_MAX);
    const now = JSON.stringify([open, over]);
    if (now === shown) return; // nothing new: leave the focus where it is
    shown = now;
    const focus = box.contains(document.activeElement) ? document.activeElement.dataset.alert : null;
    box.hidden = open.length + over.length === 0;
    fill(box,
      h("h3", { id: "alerts-title", tabindex: "-1" }, open.length > 0 ? "Alerts" : "Alerts that are over"),
      h("ul", { class: "bare", "aria-labelledby": "alerts-title" }, open.map(openOf), over.map(overOf)));
    if (focus) (box.querySelector(`[data-alert="${CSS.escape(focus)}"]`) ?? box.querySelector("h3")).focus();
  }

  function openOf(alert) {
    return h("li", { class: "card alert" },
      h("p", {}, icon("siren"), " ", h("b", {}, alert.title), " ", chip("nobody has answered", "bad")),
      h("p", { class: "fine" }, `${ago(alert.begun)}, `, h("a", { href: `#event=${alert.event}` }, "the event"), `, rule “${alert.rule}”`),
      h("ul", { class: "bare fine" }, alert.told.map(toldOf)),
      h("button", { type: "button", class: "big", "data-alert": alert.id, onclick: (event) => take(alert, event.currentTarget) }, "I have it"));
  }

  async function take(alert, button) {
    button.disabled = true;
    try {
      await post(`/api/alerts/${alert.id}/ack`, {});
      problem("");
    } catch (error) {
      button.disabled = false;
      return problem(`Not acknowledged: ${error.message}`);
    }
    return refresh();
  }

  function clear() {
    cancel();
    shown = "";
    box.replaceChildren();
    box.hidden = true;
  }

  return { refresh, soon, clear };
}

function overOf(alert) {
  return h("li", { class: "card alert over" },
    h("p", {}, icon("check"), " ", h("b", {}, alert.title), " ", chip(`${alert.acked.by} has it`, "good")),
    h("p", { class: "fine" }, `${moment(alert.acked.at)}, `, h("a", { href: `#event=${alert.event}` }, "the event")));
}

function toldOf(told) {
  const [words, tone] = STATES[told.state] ?? [told.state, "plain"];
  const who = told.person ? `${told.person}, ${told.name || "a phone"}` : told.to;
  return h("li", {}, who, " ", chip(words, tone, told.why), told.why ? h("span", { class: "miss" }, ` ${told.why}`) : null);
}
