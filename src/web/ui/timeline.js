// The live list of events. Collects what the stream brings, applies it in batches so that a
// thousand events a second cannot freeze the page, and holds new rows back while somebody is
// reading further down or has pressed Pause.

import { get } from "./api.js";
import { fill, h, icon, setText } from "./dom.js";
import { Feed, matches, ROWS_MAX_WITH_OLDER } from "./feed.js";
import { makeRow } from "./row.js";
import { dayKey, dayName, GROUPS, kindOf, placeOf } from "./words.js";

/** Pause between two batches; longer when many came, so that drawing stays a part of the work. */
const BATCH_MS = 60;
const BATCH_BUSY_MS = 400;
/** A batch larger than this counts as busy. */
const BUSY_ITEMS = 40;
/** Items waiting to be drawn or held back; above it the oldest are dropped and fetched later. */
const WAITING_MAX = 1000;
/** Screen readers hear of new events at most this often. */
const ANNOUNCE_MS = 5_000;
/** After an overflow the newest page is fetched at most this often. */
const CATCH_UP_MS = 5_000;
/** Scrolled further than this past the list's top counts as reading. */
const READING_PX = 120;
/** Pages fetched to find the event that a notification leads to. */
const SEEK_PAGES_MAX = 10;

const byId = (id) => document.getElementById(id);

export function makeTimeline() {
  let feed = new Feed();
  const rows = new Map(); // id → row
  const waiting = new Map(); // id → item, heard but not drawn
  let scheduled = 0;
  let lastBatch = 0;
  let paused = false;
  let overflowed = false;
  let loaded = false;
  let unannounced = [];
  let announcedAt = -ANNOUNCE_MS;
  let announceTimer = 0;
  let caughtUpAt = -CATCH_UP_MS;

  const list = byId("rows");
  const form = byId("filter");
  const held = byId("held");
  const older = byId("older");
  const pause = byId("pause");
  const status = byId("timeline-status");

  for (const [value, words] of GROUPS) byId("kind").append(h("option", { value }, words));

  // ---- what comes in -------------------------------------------------------------------------

  /** One item from the stream. */
  function push(item) {
    if (!item?.id) return;
    waiting.delete(item.id);
    waiting.set(item.id, item);
    if (waiting.size > WAITING_MAX) {
      waiting.delete(waiting.keys().next().value);
      overflowed = true;
    }
    schedule();
  }

  function schedule() {
    if (scheduled) return;
    scheduled = setTimeout(() => {
      if (document.hidden) flush();
      else requestAnimationFrame(flush);
    }, lastBatch > BUSY_ITEMS ? BATCH_BUSY_MS : BATCH_MS);
  }

  function reading() {
    return paused || list.getBoundingClientRect().top < -READING_PX;
  }

  function flush(release = false) {
    clearTimeout(scheduled);
    scheduled = 0;
    const hold = release !== true && reading();
    const touched = new Set();
    let fresh = 0;
    for (const [id, item] of waiting) {
      if (hold && !feed.byId.has(id)) continue;
      waiting.delete(id);
      const what = feed.upsert(item);
      if (what !== "ignored") touched.add(id);
      if (what === "new") {
        fresh += 1;
        unannounced.push(item);
      }
    }
    lastBatch = touched.size;
    feed.trim();
    if (touched.size > 0) draw(touched, loaded && fresh > 0 && fresh <= 10);
    showHeld();
    announce();
    if (!hold && overflowed && performance.now() - caughtUpAt > CATCH_UP_MS) {
      overflowed = false;
      caughtUpAt = performance.now();
      refresh().catch(() => (overflowed = true));
    }
  }

  function showHeld() {
    held.hidden = waiting.size === 0;
    const many = waiting.size >= WAITING_MAX ? `More than ${WAITING_MAX}` : waiting.size;
    setText(held, waiting.size === 1 ? "1 new event" : `${many} new events`);
  }

  function announce() {
    if (!loaded || unannounced.length === 0) return;
    const wait = announcedAt + ANNOUNCE_MS - performance.now();
    if (wait > 0) {
      announceTimer ||= setTimeout(announce, wait);
      return;
    }
    clearTimeout(announceTimer);
    announceTimer = 0;
    announcedAt = performance.now();
    const last = unannounced.at(-1).event;
    const words = [kindOf(last).words, placeOf(last)].filter(Boolean).join(", ");
    setText(status, unannounced.length === 1 ? `New: ${words}` : `${unannounced.length} new events. Latest: ${words}`);
    unannounced = [];
  }

  // ---- drawing -------------------------------------------------------------------------------

  function wanted() {
    return { text: byId("find").value, group: byId("kind").value, acted: byId("acted").checked };
  }

  // Brings the list in line with the feed, touching only rows that changed or moved.
  function draw(touched = new Set(), animate = false) {
    const filter = wanted();
    let cursor = list.firstElementChild;
    let day = null;
    const kept = new Set();
    for (const item of feed.items) {
      if (!matches(item, filter, kindOf(item.event))) continue;
      kept.add(item.id);
      let row = rows.get(item.id);
      if (!row) {
        row = makeRow(item);
        rows.set(item.id, row);
        if (animate) row.element.classList.add("fresh");
      } else if (touched.has(item.id) || row.item !== item) {
        row.update(item);
      }
      if (row.element === cursor) cursor = cursor.nextElementSibling;
      else list.insertBefore(row.element, cursor);
      const key = dayKey(item.event.received);
      row.setDay(key === day ? "" : dayName(item.event.received));
      day = key;
    }
    for (const [id, row] of rows) {
      if (kept.has(id)) continue;
      row.element.remove();
      rows.delete(id);
    }
    showEnds(kept.size, filter);
  }

  function showEnds(shown, filter) {
    older.hidden = !feed.canLoadOlder();
    const empty = byId("empty");
    empty.hidden = shown > 0 || !loaded;
    if (empty.hidden) return;
    const filtered = filter.text.trim() !== "" || filter.group !== "" || filter.acted;
    fill(empty, filtered && feed.items.length > 0 ? nothingFound() : nothingYet());
  }

  function nothingFound() {
    return [
      h("p", {}, "Nothing here matches the filter."),
      h("p", {}, h("button", { type: "button", class: "quiet", onclick: clearFilter }, "Show everything")),
    ];
  }

  function nothingYet() {
    return [
      icon("bell"),
      h("p", { class: "big" }, "All quiet."),
      h("p", {}, "Portero is listening. The first event shows up here by itself, with every rule that looked at it and why it did or did not act."),
      h("p", { class: "fine" }, "Nothing for a long time? Give Netatmo this address as its webhook: ",
        h("code", {}, `${location.origin}/hooks/netatmo/NAME`), ", where NAME is the name in portero.toml."),
    ];
  }

  // ---- fetching ------------------------------------------------------------------------------

  /** Fetches the newest page: at the start, after a lost connection, after an overflow. */
  async function refresh() {
    const asked = feed;
    asked.beginPage();
    const page = await get("/api/timeline");
    if (asked !== feed) return;
    feed.newestPage(page);
    feed.trim();
    draw();
    loaded = true;
    showEnds(rows.size, wanted());
  }

  async function loadOlder() {
    older.disabled = true;
    setText(older, "Loading…");
    const edge = feed.items.at(-1)?.id;
    try {
      feed.olderPage(await get(`/api/timeline?before=${feed.before()}`));
      draw();
      setText(status, "Older events are loaded.");
      const next = feed.items[feed.items.findIndex((one) => one.id === edge) + 1];
      if (next) rows.get(next.id)?.element.querySelector("summary").focus({ preventScroll: true });
      if (feed.items.length >= ROWS_MAX_WITH_OLDER) setText(status, "This page goes no further back; portero events prints all of them.");
    } catch (error) {
      setText(status, error.message);
    } finally {
      older.disabled = false;
      setText(older, "Load older events");
    }
  }

  /** Shows one event, fetching older pages where needed. Answers whether it was found. */
  async function open(id) {
    flush(true);
    clearFilter();
    for (let page = 0; page < SEEK_PAGES_MAX && !feed.byId.has(id) && feed.canLoadOlder(); page++) {
      feed.olderPage(await get(`/api/timeline?before=${feed.before()}`));
    }
    draw();
    const row = rows.get(id);
    if (!row) {
      setText(status, "That event is too far back to be shown here.");
      return false;
    }
    const details = row.element.querySelector("details");
    details.open = true;
    details.querySelector("summary").focus({ preventScroll: true });
    row.element.scrollIntoView({ block: "start" });
    return true;
  }

  /** Forgets everything: the session is over. */
  function clear() {
    feed = new Feed();
    waiting.clear();
    rows.clear();
    list.replaceChildren();
    loaded = false;
    unannounced = [];
    byId("empty").hidden = true;
    held.hidden = true;
    setText(status, "");
  }

  // ---- controls ------------------------------------------------------------------------------

  function clearFilter() {
    form.reset();
    draw();
  }

  let typing = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      draw();
      setText(status, `${rows.size} of ${feed.items.length} loaded events shown.`);
    }, 150);
  });
  byId("filter-toggle").addEventListener("click", (event) => {
    const open = event.currentTarget.getAttribute("aria-expanded") !== "true";
    event.currentTarget.setAttribute("aria-expanded", String(open));
    if (open) byId("find").focus();
    else if (form.checkVisibility?.() === false) clearFilter();
  });
  older.addEventListener("click", loadOlder);
  held.addEventListener("click", () => {
    setPaused(false);
    scrollTo({ top: 0 });
    flush(true);
    list.querySelector("summary")?.focus({ preventScroll: true });
  });
  pause.addEventListener("click", () => setPaused(!paused));
  addEventListener("scroll", () => {
    if (waiting.size > 0 && !reading()) schedule();
  }, { passive: true });

  function setPaused(on) {
    paused = on;
    setText(pause, on ? "Go on" : "Pause");
    if (!on) flush(true);
  }

  return { push, refresh, open, clear };
}
