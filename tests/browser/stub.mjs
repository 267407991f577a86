// A stand-in for the portero binary: the page's HTTP contract with data in memory, for working on
// the page without Rust and for trying the browser test itself. It keeps nothing, encrypts nothing
// and decides by two built-in rules; it proves nothing about the real server.
//
//   node stub.mjs            serves http://127.0.0.1:8080, pairing code DEMO-CODE
//   DEMO=1 node stub.mjs     demo mode: everybody is signed in, events keep coming
//   PAGES=60 node stub.mjs   starts with that many events

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const UI = path.resolve(fileURLToPath(import.meta.url), "../../../src/web/ui");
const TYPES = {
  ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml", ".png": "image/png", ".webmanifest": "application/manifest+json",
};
const CSP = "default-src 'self'; img-src 'self' https: data:";
const PAGE_ITEMS = 50;
/** For working on the page by hand: unlike real codes it can be used again and again. */
const REUSABLE_CODE = "DEMO-CODE";
const VAPID = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8";

const hex = (text) => createHash("sha256").update(text).digest("hex").slice(0, 32);

/** Starts the stub. `push(phone, message)` is called for each push and delivers it somehow. */
export async function startStub({ port = 0, secret = "stub-secret", demo = false, vapid = VAPID, push = async () => {} } = {}) {
  const codes = new Map();
  const phones = new Map();
  const sessions = new Map();
  const streams = new Set();
  const items = []; // oldest first
  const tokens = new Map(); // token → [item, action]
  const quarantine = [];
  let position = 1000;
  let tries = 0;
  let rules = { ok: true, version: "a41f09", problems: "", since: new Date().toISOString() };
  let journal = { writable: true, detail: "3 segments, 1.2 MB" };

  function pairCode(person = "ana") {
    const code = `${randomBytes(2).toString("hex")}-${randomBytes(2).toString("hex")}`.toUpperCase();
    codes.set(code, person);
    return code;
  }

  function addPhone(person, name, more = {}) {
    const now = new Date().toISOString();
    const phone = {
      id: randomBytes(8).toString("hex"), person, name, subscribed: false, host: null, added: now, seen: now,
      stale: false, vapid_changed: false, ...more,
    };
    phones.set(phone.id, phone);
    return phone;
  }

  function send(name, data) {
    const text = `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
    for (const stream of streams) stream.write(text);
  }

  function happen(event, raw, { decideAfter = 15, quiet = false } = {}) {
    const now = new Date().toISOString();
    position += 400;
    const item = {
      id: hex(`${position}${Math.random()}`), position, raw, decided: null,
      event: { id: "", source: "netatmo/home", received: now, time: now, trust: "authentic", data: {}, ...event },
    };
    item.event.id = item.id;
    items.push(item);
    if (!quiet) send("item", item);
    if (quiet) decide(item, true);
    else setTimeout(() => decide(item, false), decideAfter);
    return item;
  }

  function decide(item, quiet) {
    const { event } = item;
    const looked = [];
    const actions = [];
    const to = (rule, title, body, more = {}) => {
      const person = [...phones.values()].filter((one) => one.subscribed || demo);
      const missing = person.length === 0 ? [{ step: "do[0]", reason: "no_phone", detail: "ana" }] : [];
      looked.push({ rule, verdict: "fired", why: "", not_sent: missing });
      for (const phone of person) {
        actions.push({
          id: hex(item.id + rule + phone.id), rule, step: "do[0]", kind: "push", phone: phone.id, person: phone.person,
          phone_name: phone.name, title, body, urgency: "high", tag: `${rule}-${event.subject ?? ""}`, state: "waiting", detail: "", ...more,
        });
      }
    };
    if (event.type === "netatmo.ring") {
      to("doorbell", `Someone is at ${event.data.home_name ?? "the door"}`, event.data.message ?? "The doorbell rang");
      looked.push({ rule: "doorbell of the other house", verdict: "condition", why: "event.data.home_name == \"Elsewhere\" was false: event.data.home_name is \"Casa Alta\"\n  rules/house.yaml:12:9", not_sent: [] });
    } else if (event.type === "netatmo.smoke") {
      to("smoke", `SMOKE at ${event.data.home_name ?? "home"}`, "Ana, call the neighbours.");
    } else if (event.type === "netatmo.person") {
      looked.push({ rule: "known face", verdict: "cooldown", why: "fired 12 s ago, rests for 30 s (key \"p1\")", not_sent: [] });
      looked.push({ rule: "stranger at night", verdict: "condition_error", why: "`event.data.hour` is undefined, rules/people.yaml:7:9", not_sent: [] });
    }
    const sets = event.type === "netatmo.ring" ? [{ path: "home/last_ring", value: event.received, trust: event.trust }] : [];
    item.decided = { at: new Date().toISOString(), rules: rules.version, looked, sets, actions };
    if (quiet) return;
    send("item", item);
    for (const action of actions) deliver(item, action);
  }

  async function deliver(item, action) {
    const phone = phones.get(action.phone);
    const token = randomBytes(12).toString("base64url");
    tokens.set(token, [item, action]);
    const payload = {
      web_push: 8030, mutable: true,
      notification: { title: action.title, body: action.body, navigate: `${base}/#event=${item.id}`, tag: action.tag },
      portero: { action: action.id, token, event: item.id },
    };
    try {
      if (phone.subscription) await push(phone.subscription, payload);
      action.state = "delivered";
      phone.last_delivered = new Date().toISOString();
    } catch (error) {
      action.state = "refused";
      action.detail = error.message;
    }
    send("item", item);
  }

  function webhook(body, signature) {
    const want = createHmac("sha256", secret).update(body).digest();
    const got = Buffer.from(signature ?? "", "hex");
    const text = body.toString("utf8");
    if (got.length !== want.length || !timingSafeEqual(got, want)) {
      quarantine.unshift({ source: "netatmo/home", reason: signature ? "signature is wrong" : "no signature", received: new Date().toISOString(), raw: text });
      return send("status", statusOf());
    }
    const json = JSON.parse(text);
    const last = json.event_type ?? json.push_type.split("-").pop();
    const ring = last === "incoming_call";
    happen({ type: `netatmo.${ring ? "ring" : last}`, subject: json.device_id, time: null, data: json }, text);
    return undefined;
  }

  const statusOf = () => ({
    rules, journal, quarantine,
    sources: [{ source: "netatmo/home", last: items.at(-1)?.event.received ?? null, count: items.length, quarantined: quarantine.length }],
  });

  function phoneList(me) {
    return { phones: [...phones.values()].map(({ subscription, key, ...one }) => ({ ...one, me: one.id === me.id })) };
  }

  // ---- HTTP ----------------------------------------------------------------------------------

  const server = createServer((request, response) => {
    answer(request, response).catch((error) => reply(response, error.status ?? 500, { error: error.message }));
  });

  async function answer(request, response) {
    const url = new URL(request.url, "http://stub");
    const route = `${request.method} ${url.pathname}`;
    const body = request.method === "POST" ? await readAll(request) : null;
    if (url.pathname.startsWith("/hooks/netatmo/")) {
      webhook(body, request.headers["x-netatmo-secret"]);
      return reply(response, 200, {});
    }
    if (!url.pathname.startsWith("/api/")) return serveFile(url.pathname, response);
    const json = () => JSON.parse(body.toString("utf8"));
    if (route === "POST /api/pair") return pair(json(), response);
    if (route === "POST /api/receipt") return receipt(json(), response);
    const me = phoneOf(request);
    if (!me) return reply(response, 401, { error: "This device is not paired." });
    switch (route) {
      case "GET /api/me":
        return reply(response, 200, {
          person: me.person, phone: me.id, name: me.name, vapid, subscribed: me.subscribed,
          vapid_changed: me.subscribed && me.key !== vapid, demo, version: "0.1.0-stub",
        });
      case "POST /api/subscription": {
        const given = json();
        Object.assign(me, { subscription: given, key: given.vapid, subscribed: true, host: new URL(given.endpoint).host });
        send("phones", {});
        return reply(response, 204);
      }
      case "DELETE /api/subscription":
        Object.assign(me, { subscription: null, subscribed: false, host: null });
        send("phones", {});
        return reply(response, 204);
      case "POST /api/test":
        if (!me.subscribed) return reply(response, 409, { error: "Notifications are off on this device." });
        happen({ type: "portero.test", source: "portero", trust: "human", test: true, data: {} }, "", {});
        setTimeout(() => {
          const item = items.at(-1);
          const action = { id: hex(item.id), rule: "portero test", step: "", kind: "push", phone: me.id, person: me.person, phone_name: me.name, title: "It works", body: "This is a test from Portero.", urgency: "high", state: "waiting", detail: "" };
          item.decided = { ...(item.decided ?? { at: new Date().toISOString(), rules: rules.version, looked: [], sets: [] }), actions: [action] };
          send("item", item);
          deliver(item, action);
        }, 60);
        return reply(response, 202, {});
      case "POST /api/alive":
        me.seen = new Date().toISOString();
        return reply(response, 204);
      case "GET /api/timeline": return reply(response, 200, timeline(url));
      case "GET /api/stream": return stream(response);
      case "GET /api/status": return reply(response, 200, statusOf());
      case "GET /api/phones": return reply(response, 200, phoneList(me));
      case "POST /api/logout":
        phones.delete(me.id);
        send("phones", {});
        return reply(response, 204, null, { "set-cookie": "portero=; Path=/; Max-Age=0" });
      default:
    }
    const gone = /^DELETE \/api\/phones\/([0-9a-f]+)$/.exec(route);
    if (gone) {
      if (phones.get(gone[1])?.person !== me.person) return reply(response, 403, { error: "That is not your phone." });
      phones.delete(gone[1]);
      send("phones", {});
      return reply(response, 204);
    }
    return reply(response, 404, { error: "No such thing." });
  }

  function pair({ code, name }, response) {
    if (tries >= 20) return reply(response, 429, { error: "Too many tries." });
    const person = codes.get(code);
    if (!person) {
      tries += 1;
      return reply(response, 403, { error: "This code is not valid." });
    }
    if (code !== REUSABLE_CODE) codes.delete(code);
    const phone = addPhone(person, name);
    const session = randomBytes(16).toString("hex");
    sessions.set(session, phone.id);
    send("phones", {});
    return reply(response, 200, { person, phone: phone.id }, { "set-cookie": `portero=${session}; Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000` });
  }

  function receipt({ action, token, what }, response) {
    const [item, found] = tokens.get(token) ?? [];
    if (!found || found.id !== action) return reply(response, 404, { error: "No such delivery." });
    found[what === "clicked" ? "clicked_at" : "shown_at"] = new Date().toISOString();
    phones.get(found.phone).last_shown = new Date().toISOString();
    send("item", item);
    return reply(response, 204);
  }

  function phoneOf(request) {
    const cookie = /(?:^|;\s*)portero=([0-9a-f]+)/.exec(request.headers.cookie ?? "");
    if (demo) return [...phones.values()][0];
    return cookie ? phones.get(sessions.get(cookie[1])) : undefined;
  }

  function timeline(url) {
    const before = Number(url.searchParams.get("before") ?? Infinity);
    const all = items.filter((item) => item.position < before).reverse();
    return { items: all.slice(0, PAGE_ITEMS), more: all.length > PAGE_ITEMS };
  }

  function stream(response) {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.write(`event: hello\ndata: ${JSON.stringify({ version: "0.1.0-stub" })}\n\n`);
    streams.add(response);
    const beat = setInterval(() => response.write(": alive\n\n"), 15_000);
    response.on("close", () => {
      clearInterval(beat);
      streams.delete(response);
    });
  }

  async function serveFile(name, response) {
    const file = path.join(UI, name === "/" ? "index.html" : path.normalize(name));
    const type = TYPES[path.extname(file)];
    if (!type || !file.startsWith(UI)) return reply(response, 404, { error: "No such page." });
    try {
      const bytes = await readFile(file);
      response.writeHead(200, { "content-type": type, "content-security-policy": CSP, "cache-control": "no-cache" });
      return response.end(bytes);
    } catch {
      return reply(response, 404, { error: "No such page." });
    }
  }

  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${server.address().port}`;
  return {
    base, secret, pairCode, addPhone, happen, send, items, phones, quarantine,
    setRules: (next) => { rules = { ...rules, ...next }; send("status", statusOf()); },
    setJournal: (next) => { journal = { ...journal, ...next }; send("status", statusOf()); },
    setVapid: (next) => { vapid = next; send("phones", {}); },
    addCode: (code, person) => codes.set(code, person),
    dropStreams: () => { for (const one of streams) one.destroy(); },
    stop: () => new Promise((resolve) => { for (const one of streams) one.end(); server.close(resolve); server.closeAllConnections(); }),
  };
}

function reply(response, status, json, headers = {}) {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store", ...headers });
  response.end(json === undefined || json === null || status === 204 ? undefined : JSON.stringify(json));
}

async function readAll(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
}

/** A life-like event for looking at the page. */
export function sample(number) {
  const home = { home_name: "Casa Alta", home_id: "h1" };
  const all = [
    { type: "netatmo.ring", subject: "70:ee:50:00:00:01", data: { ...home, module_name: "Front door", session_id: `s${number}`, message: "Someone rang the doorbell", snapshot_url: "https://example.org/front.jpg" } },
    { type: "netatmo.person", subject: "p1", data: { ...home, person: "Benoit", is_known: true, module_name: "Hall" } },
    { type: "netatmo.movement", subject: "cam1", data: { ...home, module_name: "Garden" } },
    { type: "netatmo.tag_open", subject: "w1", data: { ...home, module_name: "Kitchen window" } },
    { type: "netatmo.animal", subject: "cam1", data: { ...home, module_name: "Garden" } },
    { type: "netatmo.wifi_status", subject: "sd1", data: { ...home, module_name: "Smoke detector", sub_type: 0, sub_type_name: "error" } },
    { type: "netatmo.smoke", subject: "sd1", data: { ...home, module_name: "Stairs", sub_type: 1, sub_type_name: "smoke_detected" } },
    { type: "netatmo.unknown", trust: "unverified", data: { push_type: "NXX-strange" } },
  ];
  const event = all[number % all.length];
  return [event, JSON.stringify({ push_type: event.type, ...event.data, number }, null, 1)];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const demo = process.env.DEMO === "1";
  const stub = await startStub({ port: Number(process.env.PORT ?? 8080), demo });
  stub.addCode(REUSABLE_CODE, "ana");
  if (demo) stub.addPhone("ana", "This browser");
  for (let i = 0; i < Number(process.env.PAGES ?? 0); i++) stub.happen(...sample(i), { quiet: true });
  const every = Number(process.env.EVERY_MS ?? (demo ? 3000 : 0));
  let number = 0;
  if (every) setInterval(() => stub.happen(...sample(number++)), every);
  console.log(`${stub.base}/#pair=${REUSABLE_CODE}`);
}
