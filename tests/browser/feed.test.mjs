// The timeline's data without a browser, and the list of files the service worker keeps.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { test } from "node:test";

import { Feed, matches, ROWS_MAX, ROWS_MAX_WITH_OLDER } from "../../src/web/ui/feed.js";
import { ago, deviceName, kindOf, pushState } from "../../src/web/ui/words.js";

const item = (position, more = {}) => ({
  id: `id${position}`, position, decided: null, event: { type: "netatmo.ring", source: "netatmo/home", data: {} }, ...more,
});
const page = (from, to, more) => ({ items: range(from, to).map((one) => item(one)), more });
const range = (from, to) => Array.from({ length: from - to + 1 }, (_, index) => from - index);
const positions = (feed) => feed.items.map((one) => one.position);

test("items stand by position, whatever order they come in", () => {
  const feed = new Feed();
  for (const one of [5, 9, 1, 7]) feed.upsert(item(one));
  assert.deepEqual(positions(feed), [9, 7, 5, 1]);
});

test("the same id replaces and never doubles", () => {
  const feed = new Feed();
  assert.equal(feed.upsert(item(1)), "new");
  assert.equal(feed.upsert(item(1, { decided: { actions: [] } })), "changed");
  assert.equal(feed.items.length, 1);
  assert.ok(feed.items[0].decided);
});

test("garbage is ignored", () => {
  const feed = new Feed();
  for (const one of [null, {}, { id: "x" }, { id: "x", position: "1", event: {} }]) assert.equal(feed.upsert(one), "ignored");
  assert.equal(feed.items.length, 0);
});

test("a flood keeps the newest and no more than the limit", () => {
  const feed = new Feed();
  for (let i = 0; i < 5000; i++) {
    feed.upsert(item(i));
    feed.trim();
  }
  assert.equal(feed.items.length, ROWS_MAX);
  assert.equal(feed.items[0].position, 4999);
  assert.equal(feed.byId.size, ROWS_MAX);
  assert.equal(feed.more, true);
  assert.equal(feed.upsert(item(3)), "ignored");
});

test("what comes live while a page is fetched is newer than that page", () => {
  const feed = new Feed();
  feed.beginPage();
  feed.upsert(item(3, { decided: { actions: [] } }));
  feed.newestPage(page(3, 1, false));
  assert.ok(feed.byId.get("id3").decided);
  assert.deepEqual(positions(feed), [3, 2, 1]);
});

test("a page that touches the list is merged, one that does not replaces it", () => {
  const feed = new Feed();
  feed.beginPage();
  feed.newestPage(page(50, 1, false));
  feed.beginPage();
  assert.equal(feed.newestPage(page(80, 31, true)), false);
  assert.equal(feed.items.length, 80);
  assert.equal(feed.more, false, "what is known of the end stays known");
  feed.beginPage();
  assert.equal(feed.newestPage(page(500, 451, true)), true);
  assert.deepEqual([feed.items.length, feed.before(), feed.more], [50, 451, true]);
});

test("older pages make room for themselves, up to a limit", () => {
  const feed = new Feed();
  feed.beginPage();
  feed.newestPage(page(5000, 4801, true));
  for (let low = 4800; low > 3000 && feed.canLoadOlder(); low -= 50) feed.olderPage(page(low, low - 49, true));
  feed.trim();
  assert.equal(feed.items.length, ROWS_MAX_WITH_OLDER);
  assert.equal(feed.canLoadOlder(), false);
});

test("the filter finds words, kinds and what led to something", () => {
  const one = item(1, {
    event: { type: "netatmo.ring", source: "netatmo/home", data: { module_name: "Front door" } },
    decided: { looked: [{ rule: "doorbell" }], actions: [{ title: "Hello", body: "", person: "ana" }] },
  });
  const kind = kindOf(one.event);
  const all = { text: "", group: "", acted: false };
  assert.ok(matches(one, { ...all, text: "FRONT doorbell ana" }, kind));
  assert.ok(!matches(one, { ...all, text: "front garden" }, kind));
  assert.ok(matches(one, { ...all, group: "bell", acted: true }, kind));
  assert.ok(!matches(one, { ...all, group: "alarm" }, kind));
  assert.ok(!matches(item(2), { ...all, acted: true }, kind));
});

test("unknown kinds and states still have words", () => {
  assert.equal(kindOf({ type: "fibaro.relay_on" }).words, "Relay on");
  assert.equal(pushState({ state: "delivered" }).words, "delivered");
  assert.equal(pushState({ state: "delivered", shown_at: "x" }).words, "shown");
  assert.equal(pushState({ state: "something" }).words, "something");
  assert.equal(ago("2026-11-20T10:00:00Z", Date.parse("2026-11-20T11:00:10Z")), "1 hour ago");
  assert.equal(ago(undefined), "never");
});

test("a device is called by its kind", () => {
  assert.equal(deviceName("Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) Safari", 5), "iPhone");
  assert.equal(deviceName("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18 Safari", 5), "iPad");
  assert.equal(deviceName("Mozilla/5.0 (Linux; Android 15) Chrome/140 Mobile Safari", 5), "Android phone (Chrome)");
});

test("the service worker keeps every file the page is made of", async () => {
  const folder = new URL("../../src/web/ui/", import.meta.url);
  const worker = await readFile(new URL("sw.js", folder), "utf8");
  const listed = [...worker.matchAll(/^ {2}.*$/gm)].flatMap(([line]) => [...line.matchAll(/"(\/[a-z0-9.-]*)"/g)].map((one) => one[1]));
  const needed = (await readdir(folder)).filter((one) => /\.(js|css)$/.test(one) && one !== "sw.js");
  for (const one of needed) assert.ok(listed.includes(`/${one}`), `${one} is not in SHELL`);
});

test("nothing on the page is ever parsed as markup, and nothing is inline", async () => {
  const folder = new URL("../../src/web/ui/", import.meta.url);
  for (const name of (await readdir(folder)).filter((one) => one.endsWith(".js"))) {
    const text = await readFile(new URL(name, folder), "utf8");
    assert.doesNotMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function/, name);
  }
  const html = await readFile(new URL("index.html", folder), "utf8");
  assert.doesNotMatch(html, /\sstyle=|\son[a-z]+=|<style|<script(?![^>]*src=)/);
});
