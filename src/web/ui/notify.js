// The card "Notifications on this device": one sentence on how things stand, and the one or two
// buttons that make sense then.

import { post } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { PushError, pushState, reportMoved, subscribe, unsubscribe } from "./push.js";

const FAILURES = {
  timeout: "Your browser's push service did not answer. The phone may be offline, or a firewall, VPN or ad blocker keeps the browser from reaching it (Google, Mozilla, Apple or Microsoft run it). Try another network, then try again.",
  service: "Your browser's push service refused or could not be reached. Private windows cannot have notifications. Check the network, then try again.",
  dismissed: "The browser's question was closed without an answer. Try again and choose Allow.",
  denied: "The browser does not allow notifications for this page.",
};

/** States that keep notifications from coming although somebody may count on them. */
const BROKEN = {
  changed: "Portero's key has changed: this device gets no notifications until you renew them.",
  lost: "This device no longer gets notifications.",
};

/**
 * Fills `card`. `session.me` is what Portero says of us; `session.reload()` asks it anew;
 * `state(name, words)` hears how things stand, with words where a person must act.
 */
export function makeNotifyCard(card, session, { state: tellState }) {
  let busy = "";
  let problem = "";
  let said = "";
  let drawing = 0;

  async function draw() {
    const turn = ++drawing;
    const me = session.me;
    if (!me) return card.replaceChildren();
    const state = busy ? "busy" : await pushState(me).catch(() => "unsupported");
    if (turn !== drawing) return;
    card.dataset.push = state;
    if (!busy) tellState(state, BROKEN[state] ?? "");
    const focused = card.contains(document.activeElement);
    fill(card,
      h("h3", {}, icon("bell"), " Notifications on this device"),
      h("p", { class: "device fine" }, me.name),
      VIEWS[state]({ me, on, off, test, busy }),
      problem ? h("p", { class: "problem", role: "alert" }, problem) : null,
      said ? h("p", { class: "said", role: "status" }, said) : null);
    if (focused) (card.querySelector("button") ?? card).focus();
    if (state === "on") reportMoved(me).catch(() => {});
  }

  async function run(words, work) {
    if (busy) return;
    [busy, problem, said] = [words, "", ""];
    draw();
    try {
      said = (await work()) ?? "";
    } catch (error) {
      problem = error instanceof PushError ? (FAILURES[error.kind] ?? `The browser said: ${error.message}`) : error.message;
      card.dataset.failure = error.kind ?? "api";
    }
    busy = "";
    await session.reload().catch(() => {});
    await draw();
  }

  const on = () => run("Asking your browser's push service…", async () => {
    delete card.dataset.failure;
    await subscribe(session.me, async () => {
      problem = "";
      await session.reload();
      draw();
    });
    return "Notifications are on. Send a test to see one.";
  });

  const off = () => run("Turning notifications off…", async () => {
    await unsubscribe();
    return "Notifications are off.";
  });

  const test = () => run("Sending a test…", async () => {
    await post("/api/test");
    return "A test is on its way. It should show up within a few seconds.";
  });

  return { draw };
}

const button = (words, onclick, kind = "") => h("button", { type: "button", class: kind, onclick }, words);

const VIEWS = {
  busy: ({ busy }) => h("p", { class: "busy", role: "status", "aria-busy": "true" }, busy),
  insecure: () => h("p", {}, "Notifications need a secure connection. Open Portero by its https:// address."),
  unsupported: () => h("p", {}, "This browser cannot receive notifications. Try a current Chrome, Edge, Firefox or Safari, not in a private window."),
  "ios-install": () => [
    h("p", {}, "On iPhone and iPad, notifications work once Portero is on the Home Screen:"),
    installSteps("Open it from there and pair it: run portero pair again for a new code."),
  ],
  denied: () => [
    h("p", {}, "Notifications are blocked for this page, and only you can unblock them:"),
    h("ol", {},
      h("li", {}, "Open the settings of this site (the icon beside the address), or of the Portero app."),
      h("li", {}, "Set Notifications to Allow."),
      h("li", {}, "Come back and load this page again.")),
  ],
  off: ({ on }) => [
    h("p", {}, "They are off. Turn them on and this device tells you what your rules want you to know."),
    button("Turn on notifications", on),
  ],
  lost: ({ on, off }) => [
    h("p", {}, "Portero would send here, but this browser has lost its subscription. Turn them on again."),
    h("p", { class: "buttons" }, button("Turn on again", on), button("Leave off", off, "quiet")),
  ],
  changed: ({ on }) => [
    h("p", {}, "Portero's key has changed, so this device cannot be reached any more. One tap renews it."),
    button("Renew notifications", on),
  ],
  on: ({ off, test }) => [
    h("p", { class: "good" }, icon("check"), " They are on."),
    h("p", { class: "buttons" }, button("Send a test", test), button("Turn off", off, "quiet")),
  ],
};

/** How to put the page on an iPhone's Home Screen. */
export function installSteps(last) {
  return h("ol", {},
    h("li", {}, "Tap ", icon("share"), " Share in the browser's bar."),
    h("li", {}, "Choose ", h("b", {}, "Add to Home Screen"), "."),
    h("li", {}, last));
}
