// The timeline's data: items by id, newest first, never more than a named number of them. Pure: no
// DOM, no clock, no network, so that it is tested without a browser.

/** Rows kept while following live; a page of this length stays light on an old phone. */
export const ROWS_MAX = 200;
/** Rows kept after "load older" was used again and again. */
export const ROWS_MAX_WITH_OLDER = 1000;

export class Feed {
  constructor() {
    this.items = []; // by position, highest first
    this.byId = new Map();
    this.limit = ROWS_MAX;
    this.more = false; // whether Portero has older ones than the last here
    this.since = null; // ids heard live while a page is being fetched
  }

  /** Puts an item in or replaces its older self. Answers "new", "changed" or "ignored". */
  upsert(item) {
    if (!item?.id || typeof item.position !== "number" || !item.event) return "ignored";
    this.since?.add(item.id);
    const known = this.byId.get(item.id);
    if (known) {
      this.items[this.items.indexOf(known)] = item;
      this.byId.set(item.id, item);
      return "changed";
    }
    const last = this.items.at(-1);
    if (this.items.length >= this.limit && last && item.position < last.position) return "ignored";
    this.items.splice(this.#place(item.position), 0, item);
    this.byId.set(item.id, item);
    return "new";
  }

  // Binary search: where an item of this position belongs. New ones nearly always at the front.
  #place(position) {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.items[middle].position > position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Drops the oldest above the limit and answers which. */
  trim() {
    if (this.items.length <= this.limit) return [];
    const gone = this.items.splice(this.limit);
    for (const item of gone) this.byId.delete(item.id);
    this.more = true;
    return gone;
  }

  /** Call before fetching the newest page; what comes live meanwhile is newer than that page. */
  beginPage() {
    this.since = new Set();
  }

  /**
   * Takes the newest page. If it does not touch what is held, there is a gap: what is held goes.
   * Answers whether the list was started afresh.
   */
  newestPage(page) {
    const live = this.since ?? new Set();
    this.since = null;
    const oldest = page.items.at(-1)?.position ?? 0;
    const held = this.items.filter((item) => !live.has(item.id));
    const gap = page.more && held.length > 0 && !page.items.some((item) => this.byId.has(item.id) && !live.has(item.id));
    const first = held.length === 0;
    if (gap) {
      this.items = this.items.filter((item) => live.has(item.id) || item.position >= oldest);
      this.byId = new Map(this.items.map((item) => [item.id, item]));
      this.limit = ROWS_MAX;
    }
    for (const item of page.items) if (!live.has(item.id)) this.upsert(item);
    if (gap || first) this.more = page.more;
    return gap;
  }

  /** Takes a page of older items and makes room for them. */
  olderPage(page) {
    this.limit = Math.min(Math.max(this.limit, this.items.length + page.items.length), ROWS_MAX_WITH_OLDER);
    for (const item of page.items) if (!this.byId.has(item.id)) this.upsert(item);
    this.more = page.more;
  }

  /** Where the next older page begins. */
  before() {
    return this.items.at(-1)?.position;
  }

  /** Whether "load older" can still do something. */
  canLoadOlder() {
    return this.more && this.items.length < ROWS_MAX_WITH_OLDER;
  }
}

/** Whether an item passes the filter: every word must occur somewhere in it. */
export function matches(item, { text, group, acted }, kind) {
  if (group && kind.group !== group) return false;
  if (acted && !(item.decided?.actions?.length > 0)) return false;
  const wanted = text.trim().toLowerCase();
  if (wanted === "") return true;
  const event = item.event;
  const rules = (item.decided?.looked ?? []).map((one) => one.rule);
  const titles = (item.decided?.actions ?? []).map((one) => `${one.title} ${one.body} ${one.person}`);
  const hay = [kind.words, event.type, event.source, event.subject, JSON.stringify(event.data ?? {}), rules, titles]
    .flat().join(" ").toLowerCase();
  return wanted.split(/\s+/).every((word) => hay.includes(word));
}
