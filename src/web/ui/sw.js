// Portero's service worker. It owns what happens while no page is open: showing a notification,
// saying what became of it, keeping the subscription alive, and a copy of the page for when there
// is no network. It never caches anything of the API.
//
// iOS takes the permission away from an app whose push shows nothing, so every push shows exactly
// one notification, before anything else is tried.

const SHELL_CACHE = "portero-shell-1";
/** Everything the page is made of; network first, so a new version arrives at the next load. */
const SHELL = [
  "/", "/alerts.js", "/app.css", "/app.js", "/api.js", "/dead.js", "/demo.js", "/dom.js", "/doors.js", "/feed.js", "/icons.js", "/memory.js",
  "/notify.js", "/pair.js", "/phones.js", "/push.js", "/row.js", "/status.js", "/stream.js",
  "/timeline.js", "/words.js", "/manifest.webmanifest", "/favicon.svg", "/icon-192.png", "/badge-96.png",
];
/** A network slower than this is answered from the copy, if there is one. */
const NETWORK_WAIT_MS = 4_000;
/** Receipts kept for later; older ones tell nobody anything new. */
const RECEIPTS_MAX = 50;
const ALIVE_EVERY_MS = 20 * 3600 * 1000;
const FALLBACK = { title: "Portero: something happened", body: "Open Portero to see what." };

// ---- a push --------------------------------------------------------------------------------------

self.addEventListener("push", (event) => event.waitUntil(onPush(event)));

async function onPush(event) {
  const message = read(event);
  try {
    await self.registration.showNotification(message.title, message.options);
  } catch {
    await self.registration.showNotification(FALLBACK.title, { body: FALLBACK.body, data: message.options.data });
  }
  await clear(message.options).catch(() => {});
  await Promise.allSettled([report(message.options.data, "shown"), sayAlive()]);
}

/** Somebody has an alert in hand: only the note that says so stays, under whatever tags it was told. */
async function clear({ tag, data }) {
  if (!data.clears) return;
  const all = await self.registration.getNotifications();
  const old = all.filter((one) => one.tag !== tag && [one.data?.alert, one.data?.clears].includes(data.clears));
  old.forEach((one) => one.close());
}

/** Turns whatever came into a title and options; never throws. */
function read(event) {
  try {
    const payload = parse(event.data) ?? {};
    // Safari may have taken a declarative message apart already.
    const told = payload.notification ?? event.notification ?? {};
    const portero = payload.portero ?? told.data?.portero ?? told.data ?? {};
    return build(told, portero);
  } catch {
    return { title: FALLBACK.title, options: options({ body: FALLBACK.body }) };
  }
}

function parse(data) {
  try {
    return data?.json() ?? null;
  } catch {
    return null;
  }
}

function build(told, portero) {
  const title = text(told.title);
  const data = {
    navigate: inside(told.navigate) ?? (text(portero.event) ? `/#event=${portero.event}` : "/"),
    action: text(portero.action), token: text(portero.token), event: text(portero.event),
    alert: text(portero.alert), clears: text(portero.clears),
  };
  const tag = text(told.tag);
  const silent = told.silent === true || data.clears !== "";
  const buttons = buttonsOf(told.actions);
  // Where each button leads: to a page of ours that asks. Nothing opens from here.
  data.buttons = Object.fromEntries(buttons.map((one) => [one.action, one.navigate]));
  const offers = buttons.map(({ action, title: words }) => ({ action, title: words }));
  if (data.alert) offers.unshift({ action: "acknowledge", title: "I have it" });
  return {
    title: title || FALLBACK.title,
    options: options({
      body: title ? text(told.body) : FALLBACK.body,
      // A repeat of the same action replaces the first one in silence; a new event under the
      // rule's own tag replaces it with sound.
      tag: tag || data.action || undefined,
      // Whoever slept through the alert must not be woken by its end.
      renotify: tag && !silent ? true : undefined,
      silent: silent ? true : undefined,
      image: httpsOnly(told.image),
      // An alert stays until somebody looks, and can be taken in hand without opening the page.
      requireInteraction: data.alert ? true : undefined,
      actions: offers.length > 0 ? offers : undefined,
      data,
    }),
  };
}

function buttonsOf(list) {
  if (!Array.isArray(list)) return [];
  const all = list.map((one) => ({ action: text(one?.action), title: text(one?.title), navigate: inside(one?.navigate) }));
  return all.filter((one) => one.action && one.title && one.navigate);
}

function options(more) {
  const all = { icon: "/icon-192.png", badge: "/badge-96.png", data: { navigate: "/" }, ...more };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

const text = (value) => (typeof value === "string" ? value : "");

/** Our own addresses only. */
function inside(address) {
  try {
    const url = new URL(address, self.location.origin);
    return text(address) && url.origin === self.location.origin ? url.pathname + url.search + url.hash : null;
  } catch {
    return null;
  }
}

function httpsOnly(address) {
  try {
    const url = new URL(address);
    return url.protocol === "https:" ? url.href : undefined;
  } catch {
    return undefined;
  }
}

// ---- a tap ---------------------------------------------------------------------------------------

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const data = event.notification.data ?? {};
  event.waitUntil(event.action === "acknowledge" ? acknowledge(data) : onClick(data, event.action));
});

async function onClick(data, button) {
  // The window first: the browser allows it only for a moment after the tap.
  const page = button ? data.buttons?.[button] : null;
  await openPage(inside(page) ?? inside(data.navigate) ?? "/").catch(() => {});
  await report(data, "clicked");
}

/** Whoever presses "I have it" is told whether Portero has heard it. */
async function acknowledge(data) {
  const response = await fetch("/api/acknowledge", {
    method: "POST", headers: { "content-type": "application/json" },
    body: JSON.stringify({ action: data.action, token: data.token }),
  }).catch(() => null);
  if (!response?.ok) {
    await self.registration.showNotification("Not acknowledged", options({
      body: "Portero could not be reached. Open it and try again.", tag: data.action, data,
    }));
  }
  await report(data, "clicked");
}

async function openPage(path) {
  const url = new URL(path, self.location.origin).href;
  const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const page = pages.find((one) => one.focused) ?? pages.find((one) => one.visibilityState === "visible") ?? pages[0];
  if (!page) return self.clients.openWindow(url);
  page.postMessage({ portero: "open", url });
  return page.focus();
}

// ---- what became of it ---------------------------------------------------------------------------

/** Tells Portero, after what could not be told before. Failures are kept for the next push. */
async function report(data, what) {
  const waiting = await takeAll().catch(() => []);
  if (data?.token) waiting.push({ action: data.action, token: data.token, what });
  const failed = [];
  for (const receipt of waiting.slice(-RECEIPTS_MAX)) {
    if (!(await send(receipt))) failed.push(receipt);
  }
  for (const receipt of failed) await put("receipts", receipt).catch(() => {});
}

/** Whether Portero has it, or will never want it (a 4xx). */
async function send(receipt) {
  try {
    const response = await fetch("/api/receipt", {
      method: "POST", keepalive: true, headers: { "content-type": "application/json" }, body: JSON.stringify(receipt),
    });
    return response.ok || (response.status >= 400 && response.status < 500 && response.status !== 429);
  } catch {
    return false;
  }
}

async function sayAlive() {
  const last = (await get("facts", "alive").catch(() => 0)) ?? 0;
  if (Date.now() - last < ALIVE_EVERY_MS) return;
  const response = await fetch("/api/alive", { method: "POST", credentials: "same-origin" });
  if (response.ok) await put("facts", Date.now(), "alive");
}

self.addEventListener("message", (event) => {
  if (event.data?.portero === "flush") event.waitUntil(report(null, "shown"));
});

// ---- the subscription ----------------------------------------------------------------------------

// The browser may replace a subscription by itself; Portero must hear of it or the phone goes deaf.
self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(onSubscriptionChange(event)));

async function onSubscriptionChange(event) {
  const answer = await fetch("/api/me", { credentials: "same-origin" });
  if (!answer.ok) return;
  const { vapid } = await answer.json();
  const fresh = event.newSubscription ?? await self.registration.pushManager.subscribe({
    userVisibleOnly: true, applicationServerKey: bytesOf(vapid),
  });
  await fetch("/api/subscription", {
    method: "POST", credentials: "same-origin", headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...fresh.toJSON(), vapid }),
  });
}

function bytesOf(base64url) {
  const bytes = atob(base64url.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(bytes, (letter) => letter.charCodeAt(0));
}

// ---- the page without a network ------------------------------------------------------------------

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(SHELL_CACHE).then((cache) => Promise.allSettled(SHELL.map((path) => cache.add(path)))));
});

self.addEventListener("activate", (event) => event.waitUntil(activate()));

async function activate() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith("portero-shell-") && name !== SHELL_CACHE).map((name) => caches.delete(name)));
  await self.clients.claim();
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin) return;
  if (!SHELL.includes(url.pathname)) return;
  event.respondWith(shell(event.request, url.pathname));
});

async function shell(request, path) {
  const cache = await caches.open(SHELL_CACHE);
  const network = fetch(path, { cache: "no-cache", credentials: "same-origin" }).then((response) => {
    if (response.ok) cache.put(path, response.clone()).catch(() => {});
    return response;
  });
  const copy = await cache.match(path);
  if (!copy) return network;
  const late = new Promise((resolve) => setTimeout(resolve, NETWORK_WAIT_MS, copy));
  return Promise.race([network.catch(() => copy), late]);
}

// ---- a small store -------------------------------------------------------------------------------

function store(name, mode, work) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("portero", 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("receipts", { autoIncrement: true });
      opening.result.createObjectStore("facts");
    };
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const database = opening.result;
      const transaction = database.transaction(name, mode);
      const request = work(transaction.objectStore(name));
      transaction.oncomplete = () => {
        database.close();
        resolve(request?.result);
      };
      transaction.onerror = transaction.onabort = () => {
        database.close();
        reject(transaction.error);
      };
    };
  });
}

const get = (name, key) => store(name, "readonly", (one) => one.get(key));
const put = (name, value, key) => store(name, "readwrite", (one) => one.put(value, key));

/** Takes every waiting receipt out in one transaction, so that two pushes do not send one twice. */
function takeAll() {
  return store("receipts", "readwrite", (one) => {
    const all = one.getAll();
    one.clear();
    return all;
  });
}
