// The page's beginning and its hub: is this device paired, which part is shown, who hears what the
// stream says. Every other module does one thing and knows nothing of the others.

import { makeAlerts } from "./alerts.js";
import { makeDead } from "./dead.js";
import { ApiError, get, post } from "./api.js";
import { fill, h, icon, setText } from "./dom.js";
import { makeDemo } from "./demo.js";
import { doorIn, makeDoors, showDoor } from "./doors.js";
import { forget, recall, remember } from "./memory.js";
import { makeNotifyCard } from "./notify.js";
import { showPairing, takeCode } from "./pair.js";
import { makePhones } from "./phones.js";
import { unsubscribe } from "./push.js";
import { makeStatus } from "./status.js";
import { openStream } from "./stream.js";
import { makeTimeline } from "./timeline.js";
import { useZone } from "./words.js";

/** Portero wants to hear about once a day that this device still lives. */
const ALIVE_EVERY_MS = 20 * 3600 * 1000;
const ALIVE_KEY = "portero.alive";
/** "Seen 5 minutes ago" is brought up to date this often, while somebody looks. */
const REFRESH_EVERY_MS = 60_000;

const byId = (id) => document.getElementById(id);
const session = { me: null, reload };
const timeline = makeTimeline();
const phones = makePhones(byId("phone-list"), { session, ask, removedMe: logout });
const status = makeStatus(byId("status-body"), { banner });
const alerts = makeAlerts(byId("alerts"), { problem: (words) => banner("alert", words, "bad") });
const dead = makeDead(byId("dead"), { problem: (words) => banner("dead", words, "bad") });
const doors = makeDoors(byId("doors-body"), { known: doorsKnown });
const card = makeNotifyCard(byId("this-phone"), session, { state: pushStateChanged, demoAsk: () => demo.ask() });
const demo = makeDemo({ toasts: byId("toasts"), banner, session });
let stopStream = null;
let pairingCode = null;
let leaveDoor = null;

// ---- which page is shown -----------------------------------------------------------------------

function showPage(name) {
  document.body.dataset.page = name;
  if (name !== "door") endDoor();
  byId("door").hidden = name !== "door";
  byId("start").hidden = name !== "start";
  byId("pair").hidden = name !== "pair";
  byId("house").hidden = name !== "house";
  byId("tabs").hidden = name !== "house";
  byId("account").hidden = name !== "house";
  byId("live").hidden = name !== "house";
}

async function boot() {
  showPage("start");
  setText(byId("start-words"), "Opening the door…");
  byId("start-retry").hidden = true;
  try {
    session.me = await get("/api/me");
  } catch (error) {
    if (error.status === 401) return pairing();
    setText(byId("start-words"), error instanceof ApiError ? error.message : "Something went wrong.");
    byId("start-retry").hidden = false;
    return;
  }
  if (pairingCode && !session.me.demo) return pairing();
  enter();
}

function pairing() {
  const me = session.me;
  showPairing(byId("pair"), {
    code: pairingCode,
    session: me,
    back: me ? () => { pairingCode = null; enter(); } : null,
    paired: () => {
      pairingCode = null;
      forget(ALIVE_KEY);
      leave();
      boot().then(() => byId("main").focus());
    },
  });
  showPage("pair");
}

function enter() {
  const { me } = session;
  byId("pair").replaceChildren();
  if (me.time_zone) useZone(me.time_zone);
  setText(byId("who"), me.person);
  setText(byId("who-long"), `Paired as “${me.name}” of ${me.person}.`);
  setText(byId("version"), me.version ? `Portero ${me.version}` : "");
  showPage("house");
  showView();
  onDoor();
  setLive("waiting", "connecting");
  if (me.demo) demo.start();
  card.draw();
  refreshSide();
  listen();
  sayAlive();
  // Receipts that could not be sent while there was no network.
  navigator.serviceWorker?.controller?.postMessage({ portero: "flush" });
}

/** Takes every trace of the house off the screen. */
function leave() {
  stopStream?.();
  stopStream = null;
  session.me = null;
  timeline.clear();
  phones.clear();
  status.clear();
  doors.clear();
  alerts.clear();
  dead.clear();
  endDoor();
  card.draw();
  byId("banners").replaceChildren();
  byId("toasts").replaceChildren();
  byId("account").open = false;
}

async function logout() {
  await unsubscribe().catch(() => {});
  try {
    await post("/api/logout");
  } catch (error) {
    if (error.status !== 401) return banner("logout", error.message, "bad");
  }
  forget(ALIVE_KEY);
  denied();
}

async function reload() {
  const version = session.me?.version;
  try {
    session.me = await get("/api/me");
    if (version && version !== session.me.version) {
      banner("version", fill(h("span"), "Portero was updated. ",
        h("button", { type: "button", class: "quiet", onclick: () => location.reload() }, "Load the new page")), "info");
    }
  } catch (error) {
    if (error.status === 401) denied();
    throw error;
  }
}

function denied() {
  leave();
  pairing();
  byId("pair-title").focus();
}

// ---- the stream --------------------------------------------------------------------------------

function listen() {
  let greeted = false;
  let wasLost = false;
  stopStream?.();
  stopStream = openStream({
    opened: () => {
      greeted = false;
      if (wasLost) reload().catch(() => {});
      wasLost = false;
      setLive("good", "live");
      banner("lost", "");
      guard(timeline.refresh()).then(openFromAddress);
      refreshSide();
    },
    lost: () => {
      wasLost = true;
      setLive("bad", "not connected");
      banner("lost", "The connection to Portero is lost. Trying again by itself.", "warn");
    },
    denied,
    item: (item) => {
      timeline.push(item);
      if (item?.event?.source === "portero") status.soon();
      if (item?.event?.type?.startsWith("portero.door.")) doors.soon();
      if (item?.event?.type === "portero.drill") phones.soon();
      alerts.soon();
      dead.soon();
      if (session.me?.demo) demo.watch(item);
    },
    status: (data) => (data?.rules && data?.journal ? status.show(data) : status.soon()),
    phones: phonesChanged,
    // The first greeting follows the connection; a later one says that much has happened at once.
    hello: () => {
      if (greeted) timeline.soon();
      greeted = true;
    },
  }, { probe });
}

async function phonesChanged(data) {
  if (data?.phones) phones.show(data);
  else phones.soon();
  const before = JSON.stringify([session.me?.subscribed, session.me?.vapid_changed]);
  await reload().catch(() => {});
  if (session.me && before !== JSON.stringify([session.me.subscribed, session.me.vapid_changed])) card.draw();
}

/** Why the stream broke: the session is over, Portero is away, or just the connection. */
async function probe() {
  try {
    await get("/api/me");
    return "ok";
  } catch (error) {
    return error.status === 401 ? "denied" : "away";
  }
}

function setLive(tone, words) {
  byId("live").dataset.tone = tone;
  setText(byId("live-words"), words);
}

function refreshSide() {
  guard(phones.refresh());
  guard(doors.refresh());
  guard(alerts.refresh());
  guard(dead.refresh());
  guard(status.refresh());
}

// A failed fetch is no news by itself: the stream says when the connection is lost.
async function guard(work) {
  try {
    await work;
  } catch (error) {
    if (error.status === 401) denied();
    else if (!(error instanceof ApiError)) throw error;
  }
}

// ---- notifications asked for ---------------------------------------------------------------------

const ASKED_KEY = "portero.asked";

/** Where the card is out of sight (a narrow screen), a line at the top leads to it. */
function pushStateChanged(state, words) {
  if (words) return banner("push", pushLine(words, "Show me", false), "warn");
  const offer = (state === "off" || state === "ios-install") && !session.me?.demo && !recall(ASKED_KEY);
  return banner("push", offer ? pushLine("Notifications are off on this device.", "Turn on…", true) : "", "info");
}

function pushLine(words, go, canWait) {
  return fill(h("span"), `${words} `, h("br"),
    h("button", { type: "button", class: "quiet", onclick: () => { location.hash = "#phones"; byId("this-phone").querySelector("button")?.focus(); } }, go),
    canWait ? h("button", { type: "button", class: "quiet", onclick: () => { remember(ASKED_KEY, "1"); banner("push", ""); } }, "Not now") : null);
}

// ---- banners and questions ---------------------------------------------------------------------

/** A line at the top of the page under a key; no words take it away. */
function banner(key, words, tone = "warn") {
  const box = byId("banners");
  const old = box.querySelector(`[data-key="${key}"]`);
  if (!words) return old?.remove();
  if (typeof words === "string" && old?.textContent === words) return undefined;
  const line = h("p", { class: `banner ${tone}`, "data-key": key }, icon(tone === "info" ? "bell" : "warn"), h("span", {}, words));
  if (old) old.replaceWith(line);
  else box.append(line);
  return undefined;
}

/** Asks "are you sure" and resolves to the answer. */
function ask(words) {
  const dialog = byId("ask");
  setText(byId("ask-words"), words);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// ---- parts of the page and links to one event --------------------------------------------------

const VIEWS = ["timeline", "doors", "phones", "status"];

function showView() {
  const name = location.hash.slice(1);
  const view = VIEWS.includes(name) ? name : "timeline";
  // The newest events are at its top, and nothing new is shown to somebody who reads further down.
  if (view === "timeline" && document.body.dataset.view !== view) scrollTo({ top: 0 });
  document.body.dataset.view = view;
  for (const link of byId("tabs").children) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function onAddress() {
  const code = takeCode();
  if (code) {
    pairingCode = code;
    if (document.body.dataset.page === "house") return pairing();
    return boot();
  }
  if (!["house", "door"].includes(document.body.dataset.page)) return undefined;
  if (onDoor()) return undefined;
  if (document.body.dataset.page === "door") showPage("house");
  showView();
  return openFromAddress();
}

async function openFromAddress() {
  const found = /^#\/?events?[=/]([0-9a-f]{32})$/.exec(location.hash);
  if (!found || !session.me) return;
  await guard(timeline.open(found[1]));
  // Once shown, the address is that of the timeline: a reload must not jump back here.
  history.replaceState(null, "", `${location.pathname}#timeline`);
}

// ---- doors -------------------------------------------------------------------------------------

/** Without a door to open there is nothing to show. */
function doorsKnown(some) {
  byId("doors-tab").hidden = !some;
  byId("doors").toggleAttribute("data-none", !some);
}

/** Shows the page that asks, if the address names a door. */
function onDoor() {
  const wanted = doorIn(location.hash);
  if (!wanted || !session.me) return false;
  endDoor();
  showPage("door");
  leaveDoor = showDoor(byId("door"), {
    ...wanted,
    back: () => {
      location.hash = "#doors";
    },
  });
  return true;
}

function endDoor() {
  leaveDoor?.();
  leaveDoor = null;
}

// ---- being alive -------------------------------------------------------------------------------

function sayAlive() {
  if (Date.now() - Number(recall(ALIVE_KEY)) < ALIVE_EVERY_MS) return;
  post("/api/alive").then(() => remember(ALIVE_KEY, Date.now())).catch(() => {});
}

// ---- start -------------------------------------------------------------------------------------

if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("/sw.js", { updateViaCache: "none" }).then(() => card.draw(), () => {});
  navigator.serviceWorker.addEventListener("message", (event) => {
    if (event.data?.portero !== "open" || typeof event.data.url !== "string") return;
    const url = new URL(event.data.url, location.href);
    if (url.origin !== location.origin) return;
    if (url.pathname === location.pathname && url.hash) location.hash = url.hash;
    else if (url.href !== location.href) location.assign(url.href);
  });
}
byId("start-retry").querySelector("button").addEventListener("click", boot);
byId("logout").addEventListener("click", async () => {
  if (await ask("Remove this device? It gets no more notifications and must be paired again.")) logout();
});
addEventListener("hashchange", onAddress);
addEventListener("online", () => {
  if (document.body.dataset.page === "start") boot();
});
setInterval(() => {
  if (!document.hidden && session.me) refreshSide();
}, REFRESH_EVERY_MS);
pairingCode = takeCode();
boot();
