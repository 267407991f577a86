// Demo mode: no push service is needed to see a notification. What the rules send to this device is
// shown by the service worker's registration, and as a card inside the page.

import { append, fill, h, icon } from "./dom.js";

/** Cards on the screen at once. */
const TOASTS_MAX = 3;
const TOAST_MS = 7_000;
/** Remembered so that a later state of the same action shows nothing twice. */
const SEEN_MAX = 500;

export function makeDemo({ toasts, banner, session }) {
  const seen = new Set();

  /** Looks for pushes to this device in an item of the live stream. */
  function watch(item) {
    for (const action of item?.decided?.actions ?? []) {
      if (action.kind !== "push" || action.phone !== session.me?.phone || seen.has(action.id)) continue;
      seen.add(action.id);
      if (seen.size > SEEN_MAX) seen.delete(seen.values().next().value);
      toast(action, item.id);
      notify(action, item.id);
    }
  }

  function toast(action, event) {
    const card = h("a", { class: "toast", href: `#event=${event}` },
      icon("bell"), h("span", {}, h("b", {}, action.title), action.body ? h("span", {}, action.body) : null));
    const drop = () => card.remove();
    card.addEventListener("click", drop);
    append(toasts, [card]);
    while (toasts.children.length > TOASTS_MAX) toasts.firstElementChild.remove();
    setTimeout(drop, TOAST_MS);
  }

  async function notify(action, event) {
    if (!("Notification" in globalThis) || Notification.permission !== "granted") return;
    const registration = await navigator.serviceWorker?.getRegistration("/");
    await registration?.showNotification(action.title, {
      body: action.body, tag: action.tag ?? action.id, icon: "/icon-192.png", badge: "/badge-96.png",
      data: { navigate: `/#event=${event}`, event },
    });
  }

  /** Shows the demo banner, with a button while permission can still be asked for. */
  function start() {
    const line = h("span", {}, "This is a demo: the house and its events are simulated. ");
    const can = "Notification" in globalThis && Notification.permission === "default";
    const button = can ? h("button", { type: "button", class: "quiet", onclick: ask }, "Show real notifications") : null;
    banner("demo", fill(h("span"), line, button), "info");
  }

  async function ask() {
    await Notification.requestPermission();
    start();
  }

  return { watch, start };
}
