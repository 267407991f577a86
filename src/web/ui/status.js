// Portero's own health: rules in force or rejected, the journal, the sources, and messages that
// nobody vouches for. What needs a person is also put into the banner at the top.

import { gather, get } from "./api.js";
import { chip, fill, h, icon } from "./dom.js";
import { ago, count, moment } from "./words.js";

const FETCH_PAUSE_MS = 500;
/** While something is wrong, its end is looked for this often. */
const TROUBLE_EVERY_MS = 5_000;

/** `banner(key, words, tone)` shows a line at the top of the page; no words take it away. */
export function makeStatus(box, { banner }) {
  let trouble = 0;
  let shown = "";

  const { soon, cancel } = gather(() => refresh(), FETCH_PAUSE_MS);

  async function refresh() {
    show(await get("/api/status"));
  }

  function show(status) {
    const { rules, journal } = status;
    clearTimeout(trouble);
    if (!rules.ok || !journal.writable) trouble = setTimeout(soon, TROUBLE_EVERY_MS);
    banner("rules", rules.ok ? "" : "The rule files have problems. The last good rules stay in force; see Health.", "warn");
    banner("journal", journal.writable ? "" : `The journal cannot be written: ${journal.detail}. Events are still passed on, but a restart would lose them.`, "bad");
    const now = JSON.stringify(status);
    if (now === shown) return; // nothing new: leave what the person has opened alone
    shown = now;
    const open = [...box.querySelectorAll("details[open]")].map((one) => one.dataset.key);
    fill(box, rulesOf(rules), journalOf(journal), sourcesOf(status.sources ?? []), quarantineOf(status.quarantine ?? []));
    for (const one of box.querySelectorAll("details")) one.open ||= open.includes(one.dataset.key);
  }

  function clear() {
    clearTimeout(trouble);
    cancel();
    shown = "";
    box.replaceChildren();
  }

  return { refresh, soon, show, clear };
}

function rulesOf(rules) {
  return h("div", { class: "card", id: "status-rules" },
    h("h3", {}, icon("list"), " Rules ", rules.ok ? chip("in force", "good") : chip("rejected", "bad")),
    rules.ok ? null : [
      h("p", {}, "The files as they are now cannot be used. The last good rules stay in force. Run ", h("code", {}, "portero check"), " after editing."),
      h("pre", { tabindex: "0", class: "problems", "aria-label": "Problems in the rule files" }, rules.problems.trimEnd()),
    ],
    h("p", { class: "fine" }, rules.version ? `Version ${rules.version}` : "No rules loaded",
      rules.since ? `, since ${moment(rules.since)}` : ""));
}

function journalOf(journal) {
  return h("div", { class: "card", id: "status-journal" },
    h("h3", {}, icon("card"), " Journal ", journal.writable ? chip("writing", "good") : chip("not writable", "bad")),
    journal.detail ? h("p", { class: journal.writable ? "fine" : "problem" }, journal.detail) : null);
}

function sourcesOf(sources) {
  return h("div", { class: "card", id: "status-sources" },
    h("h3", {}, icon("pulse"), " Sources"),
    sources.length === 0
      ? h("p", {}, "No system is set up yet. Add one to portero.toml.")
      : h("ul", { class: "bare" }, sources.map((one) => h("li", {},
        h("b", {}, one.source), " ",
        h("span", { class: "fine" }, one.last ? `last heard ${ago(one.last)}` : "not heard yet", `, ${count(one.count ?? 0, "event")}`),
        one.link && !one.link.up ? [" ", chip("not connected", "bad", one.link.why), h("span", { class: "fine" }, ` ${one.link.why ?? ""}`)] : null,
        one.quarantined > 0 ? [" ", chip(`${one.quarantined} quarantined`, "warn")] : null))));
}

function quarantineOf(list) {
  return h("div", { class: "card", id: "status-quarantine" },
    h("h3", {}, icon("warn"), " Quarantine ", list.length > 0 ? chip(list.length, "warn") : null),
    list.length === 0
      ? h("p", { class: "fine" }, "Empty. Messages with a bad signature, or that make no sense, would be kept here and never passed on.")
      : [
        h("p", {}, "These messages could not be vouched for or not be understood. They were kept to be looked at and went no further."),
        list.map((one, index) => h("details", { "data-key": `${one.received}-${one.source}-${index}` },
          h("summary", {}, h("b", {}, one.reason), h("span", { class: "fine" }, ` ${one.source}, ${ago(one.received)}`)),
          h("p", { class: "fine" }, moment(one.received)),
          h("pre", { tabindex: "0", "aria-label": "Raw message" }, String(one.raw ?? "")))),
      ]);
}
