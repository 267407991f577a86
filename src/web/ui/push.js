// Subscribing this device to Web Push, and every way in which that can fail. No screen: answers
// with states and errors that notify.js puts into words.

import { post, remove } from "./api.js";
import { forget, recall, remember } from "./memory.js";

/**
 * How long subscribe() may take. Where no push service can be reached Chromium never settles it, so
 * the page must give up by itself. A test may set `globalThis.porteroSubscribeWaitMs`.
 */
const SUBSCRIBE_WAIT_MS = 20_000;
/** Which endpoint Portero knows for this device, so that a changed one is noticed. */
const ENDPOINT_KEY = "portero.endpoint";

/** Why subscribing failed: `kind` is timeout, denied, dismissed, service or other. */
export class PushError extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** Whether this is an iPhone or iPad; an iPad calls itself a Macintosh that can be touched. */
export function isIos() {
  const agent = navigator.userAgent;
  return /iPhone|iPad|iPod/.test(agent) || (/Macintosh/.test(agent) && navigator.maxTouchPoints > 1);
}

/** Whether the page runs as an installed app. */
export function isInstalled() {
  return matchMedia("(display-mode: standalone)").matches || navigator.standalone === true;
}

/** What stands in the way of push here: "" when nothing does. */
export function obstacle() {
  if (!globalThis.isSecureContext) return "insecure";
  const able = "serviceWorker" in navigator && "PushManager" in globalThis && "Notification" in globalThis;
  if (able) return "";
  return isIos() && !isInstalled() ? "ios-install" : "unsupported";
}

/**
 * The state of push on this device: insecure, ios-install, unsupported, denied, off, changed (the
 * server's key is another one), lost (Portero thinks we are subscribed, the browser does not), on.
 */
export async function pushState(me) {
  const blocked = obstacle();
  if (blocked) return blocked;
  if (Notification.permission === "denied") return "denied";
  const subscription = await current();
  if (!subscription) return me.subscribed ? "lost" : "off";
  if (me.vapid_changed || !sameKey(subscription, me.vapid)) return "changed";
  return me.subscribed && Notification.permission === "granted" ? "on" : "off";
}

/** The browser's subscription, or null. Never waits for a worker that does not come. */
async function current() {
  const registration = await navigator.serviceWorker.getRegistration("/");
  return (await registration?.pushManager.getSubscription()) ?? null;
}

/** Asks for permission, subscribes with Portero's key and tells Portero. Must follow a tap. */
export async function subscribe(me, onLate) {
  const permission = await Notification.requestPermission();
  if (permission === "denied") throw new PushError("denied", "Notifications are blocked for this page.");
  if (permission !== "granted") throw new PushError("dismissed", "The question was closed without an answer.");
  const subscription = await withTimeout(subscribeFresh(me.vapid), async (late) => {
    await tell(late, me.vapid);
    onLate();
  });
  await tell(subscription, me.vapid);
}

// A subscription left over from another key, or one Portero has given up, cannot be used again.
async function subscribeFresh(vapid) {
  const registration = await navigator.serviceWorker.ready;
  const old = await registration.pushManager.getSubscription();
  if (old) await old.unsubscribe();
  return registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytesOf(vapid) });
}

function withTimeout(work, onLate) {
  const wait = globalThis.porteroSubscribeWaitMs ?? SUBSCRIBE_WAIT_MS;
  return new Promise((resolve, reject) => {
    let over = false;
    const timer = setTimeout(() => {
      over = true;
      reject(new PushError("timeout", `No answer within ${Math.round(wait / 1000)} seconds.`));
    }, wait);
    work.then(
      (value) => {
        clearTimeout(timer);
        if (over) onLate(value).catch(() => {});
        else resolve(value);
      },
      (error) => {
        clearTimeout(timer);
        const kind = error.name === "AbortError" ? "service" : error.name === "NotAllowedError" ? "denied" : "other";
        reject(new PushError(kind, error.message));
      },
    );
  });
}

async function tell(subscription, vapid) {
  await post("/api/subscription", { ...subscription.toJSON(), vapid });
  remember(ENDPOINT_KEY, subscription.endpoint);
}

/** If the browser has moved to another endpoint since we last told Portero, tells it. */
export async function reportMoved(me) {
  const subscription = await current();
  if (!subscription || recall(ENDPOINT_KEY) === subscription.endpoint) return;
  await tell(subscription, me.vapid);
}

/** Ends push on this device, here and at Portero. */
export async function unsubscribe() {
  const subscription = await current().catch(() => null);
  await subscription?.unsubscribe().catch(() => {});
  forget(ENDPOINT_KEY);
  await remove("/api/subscription");
}

function sameKey(subscription, vapid) {
  const key = subscription.options?.applicationServerKey;
  if (!key) return true; // some browsers do not tell; the server's word (vapid_changed) decides
  const ours = bytesOf(vapid);
  const theirs = new Uint8Array(key);
  return ours.length === theirs.length && ours.every((byte, index) => byte === theirs[index]);
}

function bytesOf(base64url) {
  const text = atob(base64url.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}
