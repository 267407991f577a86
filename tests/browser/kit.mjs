// What the browser tests share: a browser, devices in it (each a context of its own, with a push
// service of our own in place of Google's), webhooks, and questions to the page.

import { createHmac, randomUUID } from "node:crypto";
import { chromium } from "playwright-core";

/** The most any single thing on the page may take on a busy machine. */
export const WAIT_MS_MAX = 15_000;
const { BASE_URL, HOOK_URL, HOOK_SECRET, CONTROL_URL, SHOTS } = process.env;
export const base = BASE_URL;

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

/** Asks the runner; see `control` in run.mjs. */
export async function control(action, body = {}) {
  const response = await fetch(CONTROL_URL + action, { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${action}: ${answer.error}`);
  return answer;
}

/** Posts a webhook as Netatmo does; `signature` replaces the good one. Answers the HTTP status. */
export async function webhook(body, { signature } = {}) {
  const bytes = typeof body === "string" ? body : JSON.stringify(body);
  const good = createHmac("sha256", HOOK_SECRET).update(bytes).digest("hex");
  const response = await fetch(HOOK_URL, {
    method: "POST", body: bytes, headers: { "content-type": "application/json", "X-Netatmo-secret": signature ?? good },
  });
  await response.arrayBuffer();
  return response.status;
}

/** A ring of its own: every call is a new session, so none is a duplicate. */
export function ring(more = {}) {
  return {
    user_id: "u1", device_id: "70:ee:50:00:00:01", home_id: "h1", home_name: "Casa Alta", camera_id: "70:ee:50:00:00:01",
    event_id: randomUUID(), subevent_id: randomUUID(), session_id: randomUUID(), event_type: "incoming_call",
    push_type: "NDB-incoming_call", message: "Someone rang the doorbell", ...more,
  };
}

/** Something no rule of the tests looks at. */
export function movement() {
  return {
    user_id: "u1", device_id: "70:ee:50:00:00:02", home_id: "h1", home_name: "Casa Alta", camera_id: "70:ee:50:00:00:02",
    event_id: randomUUID(), event_type: "movement", push_type: "NOC-movement", message: "Movement in the garden",
  };
}

/**
 * A device: a browser context and its page. `push` is "mock" (subscribes at the runner's push
 * service), "hang" (never settles) or "blocked" (no permission).
 */
export async function device(browser, { push = "mock", ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, serviceWorkers: "allow", reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(WAIT_MS_MAX);
  if (push !== "blocked") await context.grantPermissions(["notifications"], { origin: base });
  await context.exposeFunction("testSubscribe", (key) => control("/subscribe", { key }));
  await context.addInitScript(replacePush, push);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource|ERR_INTERNET_DISCONNECTED/.test(message.text())) faults.push(message.text());
  });
  return { context, page, faults };
}

// Runs in the page. Chromium's own subscribe() needs Google's push service; this one asks ours.
function replacePush(mode) {
  const KEY = "test.subscription";
  globalThis.porteroSubscribeWaitMs = mode === "hang" ? 400 : undefined;
  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const wrap = (saved) => ({
    endpoint: saved.endpoint, expirationTime: null,
    options: { userVisibleOnly: true, applicationServerKey: bytes(saved.key).buffer },
    toJSON: () => ({ endpoint: saved.endpoint, expirationTime: null, keys: saved.keys }),
    unsubscribe: async () => {
      localStorage.removeItem(KEY);
      return true;
    },
  });
  PushManager.prototype.getSubscription = async function getSubscription() {
    const saved = JSON.parse(localStorage.getItem(KEY));
    return saved ? wrap(saved) : null;
  };
  PushManager.prototype.subscribe = async function subscribe(options) {
    if (mode === "hang") return new Promise(() => {});
    if (options.userVisibleOnly !== true) throw new Error("userVisibleOnly must be true");
    const key = text(options.applicationServerKey);
    const made = await globalThis.testSubscribe(key);
    localStorage.setItem(KEY, JSON.stringify({ ...made, key }));
    return wrap({ ...made, key });
  };
}

/** Pairs a device by a link for `person`; answers the code used. */
export async function pairByLink({ page }, person = "ana") {
  const { code } = await control("/pair", { person });
  await page.goto(`${base}/#pair=${encodeURIComponent(code)}`);
  await page.locator("#pair button", { hasText: "Pair" }).click();
  await page.locator("#house").waitFor();
  await page.locator("#live[data-tone=good]").waitFor();
  return code;
}

/** Takes a device out of the house, so that later tests do not push to it, and closes it. */
export async function leave({ context, page }) {
  if (page?.url().startsWith(base)) {
    await page.evaluate(async () => {
      const answer = await fetch("/api/me");
      const me = answer.ok ? await answer.json() : null;
      if (me) await fetch(`/api/phones/${me.phone}`, { method: "DELETE" });
    }).catch(() => {});
  }
  await context.close();
}

/** Goes to one of the three parts on a narrow screen. */
export async function view({ page }, name) {
  await page.locator(`#tabs a[data-view=${name}]`).click();
  await page.locator(`#${name}`).waitFor();
}

export async function turnOn(phone) {
  await view(phone, "phones");
  await phone.page.getByRole("button", { name: "Turn on notifications" }).click();
  await phone.page.locator("#this-phone[data-push=on]").waitFor();
}

/** What the push service got for this device: decrypted texts, and the requests' headers. */
export async function received({ page }) {
  const saved = await page.evaluate(() => JSON.parse(localStorage.getItem("test.subscription")));
  return control("/messages", { clientHash: saved.clientHash });
}

/** The DevTools connection that hands a push to the service worker, as a push service would. */
export async function pusher({ context, page }) {
  await page.evaluate(() => navigator.serviceWorker.ready.then(() => true));
  const session = await context.newCDPSession(page);
  const found = new Map();
  session.on("ServiceWorker.workerRegistrationUpdated", ({ registrations }) => {
    for (const one of registrations) if (one.scopeURL.startsWith(base) && !one.isDeleted) found.set(one.scopeURL, one.registrationId);
  });
  await session.send("ServiceWorker.enable");
  await until(() => found.size > 0, "the service worker's registration");
  const registrationId = [...found.values()].at(-1);
  return (data) => session.send("ServiceWorker.deliverPushMessage", { origin: `${base}/`, registrationId, data });
}

/** Notifications shown now. */
export function shown({ page }) {
  return page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    return (await registration.getNotifications()).map(({ title, body, tag, data }) => ({ title, body, tag, data }));
  });
}

export function closeAll({ page }) {
  return page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    for (const one of await registration.getNotifications()) one.close();
  });
}

/** Polls until `check` answers something true, and answers that. */
export async function until(check, what) {
  const end = Date.now() + WAIT_MS_MAX;
  for (;;) {
    const result = await check();
    if (result) return result;
    if (Date.now() > end) throw new Error(`waited ${WAIT_MS_MAX} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Asks the API with this device's session. */
export function api({ page }, path, method = "GET") {
  return page.evaluate(async ([where, how]) => {
    const response = await fetch(where, { method: how });
    return { status: response.status, body: await response.json().catch(() => null) };
  }, [path, method]);
}

export const shot = ({ page }, name) => page.screenshot({ path: `${SHOTS}/${name}.png` });

/** What makes the page scroll sideways: nothing is right. */
export const sticksOut = ({ page }) => page.evaluate(() => {
  const root = document.documentElement;
  if (root.scrollWidth <= root.clientWidth) return [];
  const wide = [...document.body.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > root.clientWidth + 0.5);
  return [`${root.scrollWidth} px`, ...wide.slice(0, 6).map((one) => `${one.tagName}#${one.id}.${one.className}`)];
});

/** Texts on the page whose contrast is below WCAG AA, with their ratio. */
export function lowContrast({ page }) {
  return page.evaluate(() => {
    const parse = (colour) => {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = (top, under) => top.slice(0, 3).map((one, i) => one * top[3] + under[i] * (1 - top[3]));
    const light = (colour) => {
      const [r, g, b] = colour.map((one) => (one / 255 <= 0.03928 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const backgroundOf = (element) => {
      const layers = [];
      for (let one = element; one; one = one.parentElement) layers.unshift(parse(getComputedStyle(one).backgroundColor));
      return layers.reduce((under, top) => over(top, under), [255, 255, 255]);
    };
    const bad = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true }) || element.closest("[disabled], .sr, noscript, option")) continue;
      const under = backgroundOf(element);
      const style = getComputedStyle(element);
      const [a, b] = [light(over(parse(style.color), under)), light(under)].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)} “${walker.currentNode.data.trim().slice(0, 40)}”`);
    }
    return bad;
  });
}
