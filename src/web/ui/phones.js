// The list of phones: whose they are, whether they can be reached, and what ails them.

import { gather, get, remove } from "./api.js";
import { chip, fill, h, icon } from "./dom.js";
import { ago, moment } from "./words.js";

/** Many stream events in a row cause one fetch. */
const FETCH_PAUSE_MS = 300;

/** `ask(words)` resolves to whether the person is sure; `removedMe()` is called after our own end. */
export function makePhones(list, { session, ask, removedMe }) {

  const { soon } = gather(() => refresh(), FETCH_PAUSE_MS);

  async function refresh() {
    show(await get("/api/phones"));
  }

  function show(answer) {
    const phones = [...answer.phones].sort((a, b) => Number(b.me) - Number(a.me) || order(a, b));
    const focused = list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.id : null;
    fill(list, phones.map(phoneOf));
    if (focused) list.querySelector(`li[data-id="${CSS.escape(focused)}"] button`)?.focus();
  }

  function phoneOf(phone) {
    const mine = phone.me || phone.person === session.me?.person;
    return h("li", { class: "card phone", "data-id": phone.id },
      h("p", { class: "phone-name" }, icon("phone"), h("b", {}, phone.name), " ",
        h("span", { class: "fine" }, phone.person), phone.me ? [" ", chip("this device", "good")] : null),
      h("p", { class: "chips" }, healthOf(phone)),
      phone.failing ? h("p", { class: "problem" }, phone.failing) : null,
      h("p", { class: "fine history" }, historyOf(phone)),
      mine ? h("button", { type: "button", class: "quiet", "aria-label": `Remove ${phone.name}`, onclick: () => end(phone) }, "Remove") : null);
  }

  async function end(phone) {
    const words = phone.me
      ? "Remove this device? It gets no more notifications and must be paired again."
      : `Remove ${phone.name}? It gets no more notifications and must be paired again.`;
    if (!(await ask(words))) return;
    if (phone.me) return removedMe();
    await remove(`/api/phones/${encodeURIComponent(phone.id)}`).catch(() => {});
    await refresh().catch(() => {});
  }

  return { refresh, soon, show, clear: () => list.replaceChildren() };
}

const order = (a, b) => a.person.localeCompare(b.person) || a.name.localeCompare(b.name);

function healthOf(phone) {
  const chips = [];
  if (!phone.subscribed) chips.push(chip("notifications off", "warn"));
  else if (phone.failing) chips.push(chip("failing", "bad"));
  else if (!phone.stale && !phone.vapid_changed) chips.push(chip("reachable", "good"));
  if (phone.vapid_changed) chips.push(chip("key changed: open Portero on it and renew", "bad"));
  if (phone.stale) chips.push(chip("not seen for a week", "warn"));
  return chips;
}

function historyOf(phone) {
  const facts = [`Seen ${ago(phone.seen)}`];
  if (phone.last_shown) facts.push(`last notification shown ${ago(phone.last_shown)}`);
  else if (phone.last_delivered) facts.push(`last notification delivered ${ago(phone.last_delivered)}`);
  if (phone.drill) facts.push(drillOf(phone.drill));
  if (phone.subscribed && phone.host) facts.push(`by ${phone.host}`);
  return h("span", { title: phone.added ? `Added ${moment(phone.added)}` : null }, `${facts.join(", ")}.`);
}

/** "last drill: shown after 1.2 s, 3 days ago". */
function drillOf(drill) {
  const when = ago(drill.sent);
  if (drill.shown_after_s !== null) return `last drill: shown after ${drill.shown_after_s.toFixed(1)} s, ${when}`;
  if (drill.failed) return `last drill: not delivered (${drill.failed}), ${when}`;
  if (drill.accepted_after_s !== null) return `last drill: delivered and not shown, ${when}`;
  return `last drill: not delivered yet, ${when}`;
}
