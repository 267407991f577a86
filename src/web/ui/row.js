// One event of the timeline as an element: a summary line that is always there, and the
// explanation, which is built only when somebody opens it.

import { append, chip, fill, h, icon, picture } from "./dom.js";
import {
  clock, count, isCalm, kindOf, marksOf, moment, NOT_SENT, placeOf, PUSH_STEPS, commandState, openState, pushState, TRUST, VERDICTS,
} from "./words.js";

/** More pushes than this are counted in the summary line instead of named. */
const NAMED_MAX = 2;
/** A raw body longer than this is cut on the page; the journal has all of it. */
const RAW_CHARS_MAX = 20_000;

/** Makes the row; `row.update(item)` shows a newer state of the same event. */
export function makeRow(item) {
  const day = h("h3", { class: "day", hidden: true });
  const summary = h("summary");
  const inside = h("div", { class: "inside" });
  const details = h("details", { class: "event", id: `event-${item.id}` }, summary, inside);
  const element = h("li", {}, day, details);
  const row = { element, item, update, setDay };

  details.addEventListener("toggle", () => {
    if (details.open) fillInside();
    else inside.replaceChildren();
  });

  function setDay(name) {
    day.hidden = name === "";
    if (day.textContent !== name) day.textContent = name;
  }

  function update(next) {
    row.item = next;
    fill(summary, summaryOf(next));
    details.className = `event ${kindOf(next.event).group}${isCalm(next.event) ? " calm" : ""}`;
    if (details.open) fillInside();
  }

  // Rebuilding must not close what is open nor move the keyboard's place.
  function fillInside() {
    const open = [...inside.querySelectorAll("details[open]")].map((one) => one.dataset.key);
    const focus = document.activeElement?.closest?.("[data-key]");
    const key = focus && inside.contains(focus) ? focus.dataset.key : null;
    fill(inside, insideOf(row.item));
    for (const one of inside.querySelectorAll("details[data-key]")) {
      if (open.includes(one.dataset.key)) one.open = true;
    }
    if (key) inside.querySelector(`details[data-key="${key}"] > summary`)?.focus();
  }

  update(item);
  return row;
}

function summaryOf(item) {
  const { event, decided } = item;
  const kind = kindOf(event);
  return [
    h("span", { class: "mark" }, icon(kind.icon)),
    h("span", { class: "what" },
      h("strong", {}, kind.words),
      " ",
      h("span", { class: "where" }, placeOf(event))),
    h("time", { datetime: event.time ?? event.received, title: moment(event.time ?? event.received) },
      clock(event.time ?? event.received)),
    h("span", { class: "chips" }, chipsOf(event, decided)),
  ];
}

function chipsOf(event, decided) {
  const chips = marksOf(event).map(([words, why]) => chip(words, "plain", why));
  const trust = TRUST[event.trust];
  if (trust?.[1] === "warn") chips.push(chip(trust[0], trust[1], trust[2]));
  if (!decided) return [...chips, chip("deciding…")];
  const pushes = decided.actions.filter((one) => one.kind === "push");
  const commands = decided.actions.filter((one) => one.kind === "command");
  const opens = decided.actions.filter((one) => one.kind === "open");
  chips.push(...opens.map((one) => chip(`${one.door}: ${openState(one).words}`, openState(one).tone)));
  chips.push(...commands.map((one) => chip(`${one.to}: ${commandState(one).words}`, commandState(one).tone, one.call)));
  chips.push(...pushes.length <= NAMED_MAX ? pushes.map(namedChip) : countedChips(pushes));
  if (decided.actions.length === 0) chips.push(quietChip(decided));
  else if (pushes.length + commands.length + opens.length === 0) chips.push(chip(count(decided.actions.length, "event") + " made", "good"));
  return chips;
}

function namedChip(push) {
  const state = pushState(push);
  return chip(`${push.phone_name ?? push.person}: ${state.words}`, state.tone);
}

/** "3 phones: delivered", one chip per state. */
function countedChips(pushes) {
  const states = new Map();
  for (const one of pushes) {
    const state = pushState(one);
    states.set(state.words, { state, number: (states.get(state.words)?.number ?? 0) + 1 });
  }
  return [...states.values()].map(({ state, number }) => chip(`${count(number, "phone")}: ${state.words}`, state.tone));
}

// Why nothing was done, in as few words as possible.
function quietChip(decided) {
  const fired = decided.looked.filter((one) => one.verdict === "fired");
  const failed = decided.looked.some((one) => one.verdict === "condition_error");
  if (fired.some((one) => one.not_sent?.length > 0)) return chip("nobody could be told", "warn");
  if (fired.length > 0) return chip(`${count(fired.length, "rule")} fired`, "good");
  if (failed) return chip("a rule has an error", "bad");
  if (decided.looked.length > 0) return chip(`${count(decided.looked.length, "rule")} looked, none applied`, "faint");
  return chip("no rule for this", "faint");
}

function insideOf(item) {
  const { event, decided } = item;
  return [
    pictureOf(item),
    decided ? decisionOf(decided) : h("p", {}, "The rules have not looked at this event yet."),
    factsOf(item),
    rawOf(item),
  ];
}

function pictureOf(item) {
  const data = item.event.data ?? {};
  const images = (item.decided?.actions ?? []).map((one) => one.image);
  const address = [...images, data.snapshot_url, data.vignette_url].find(Boolean);
  return address ? picture(address, "Picture sent with this event") : null;
}

function decisionOf(decided) {
  const parts = [];
  if (decided.actions.length > 0) {
    parts.push(h("h4", {}, "What was done"), h("ul", { class: "actions" }, decided.actions.map(actionOf)));
  }
  parts.push(h("h4", {}, "Why"));
  if (decided.looked.length === 0) {
    parts.push(h("p", {}, "No rule looks at events of this type."));
  } else {
    parts.push(h("ul", { class: "looked" }, decided.looked.map(lookedOf)));
  }
  if (decided.sets?.length > 0) {
    parts.push(h("h4", {}, "What was remembered"), table(decided.sets.map((one) => [
      one.path, `${plain(one.value)} (${TRUST[one.trust]?.[0] ?? one.trust})`,
    ])));
  }
  return parts;
}

function actionOf(action) {
  if (action.kind === "command") return commandOf(action);
  if (action.kind === "open") return openOf(action);
  if (action.kind !== "push") {
    return h("li", { class: "action" }, h("p", {}, "Made the event ", h("code", {}, action.emits ?? action.id)), byRule(action));
  }
  const state = pushState(action);
  return h("li", { class: "action" },
    h("p", { class: "to" }, "To ", h("b", {}, action.person), action.phone_name ? `, ${action.phone_name}` : ""),
    h("p", { class: "note" }, h("b", {}, action.title), action.body ? h("span", {}, action.body) : null),
    state.step === null
      ? h("p", {}, chip(state.words, state.tone), action.detail ? ` ${action.detail}` : "")
      : steps(action, state),
    byRule(action));
}

function commandOf(action) {
  const state = commandState(action);
  const told = Object.entries(action.args ?? {}).map(([name, value]) => [name, plain(value)]);
  return h("li", { class: "action" },
    h("p", { class: "to" }, "Told ", h("b", {}, action.to), " to ", h("code", {}, action.call)),
    told.length > 0 ? table(told) : null,
    h("p", {}, chip(state.words, state.tone), action.detail ? ` ${action.detail}` : ""),
    byRule(action));
}

function openOf(action) {
  const state = openState(action);
  return h("li", { class: "action" },
    h("p", { class: "to" }, "Opens ", h("b", {}, action.door), action.person ? ` for ${action.person}` : ""),
    h("p", {}, chip(state.words, state.tone), action.detail ? ` ${action.detail}` : ""),
    byRule(action));
}

const byRule = (action) => h("p", { class: "fine" },
  `By the rule “${action.rule}”`, action.step ? `, ${action.step}` : "",
  action.urgency && action.urgency !== "normal" ? `, urgency ${action.urgency}` : "",
  action.tag ? `, tag ${action.tag}` : "");

function steps(action, state) {
  const at = [null, null, action.shown_at, action.clicked_at];
  return [
    h("ol", { class: "steps", "aria-label": `State: ${state.words}` }, PUSH_STEPS.map((name, index) =>
      h("li", { class: index <= state.step ? "done" : "", "aria-current": index === state.step && "step" },
        h("span", {}, name), at[index] ? h("time", { datetime: at[index] }, clock(at[index])) : null))),
    action.detail ? h("p", { class: "fine" }, action.detail) : null,
  ];
}

function lookedOf(one) {
  const [words, tone] = VERDICTS[one.verdict] ?? [one.verdict, "plain"];
  return h("li", {},
    h("p", {}, h("b", {}, one.rule), " ", chip(words, tone)),
    one.why ? h("pre", { class: "why", tabindex: "0", "aria-label": "Reason" }, one.why) : null,
    (one.not_sent ?? []).map((miss) => h("p", { class: "miss" },
      `Not sent (${miss.step}): ${NOT_SENT[miss.reason] ?? miss.reason}`, miss.detail ? `: ${miss.detail}` : "")));
}

function factsOf(item) {
  const { event, decided } = item;
  const trust = TRUST[event.trust];
  const facts = [
    ["Type", event.type],
    ["Source", event.source],
    ["Subject", event.subject],
    // A source that does not say when has the moment we took it as its time.
    ["Happened", event.time !== event.received && moment(event.time)],
    ["Received", moment(event.received)],
    ["Trust", trust ? `${event.trust}: ${trust[2]}` : event.trust],
    ["Marks", marksOf(event).map(([words]) => words).join(", ")],
    ["Rules version", decided?.rules],
    ["Id", event.id],
  ].filter(([, value]) => value);
  const data = Object.entries(event.data ?? {}).map(([key, value]) => [key, plain(value)]);
  return h("details", { "data-key": "facts" },
    h("summary", {}, "Details"),
    table(facts),
    data.length > 0 ? [h("h4", {}, "Its data, as rules see it"), table(data, true)] : null);
}

function rawOf(item) {
  if (!item.raw) return null;
  const text = String(item.raw);
  return h("details", { "data-key": "raw" },
    h("summary", {}, "Message as it came"),
    h("pre", { tabindex: "0", "aria-label": "Raw message" }, text.slice(0, RAW_CHARS_MAX)),
    text.length > RAW_CHARS_MAX ? h("p", { class: "fine" }, `Cut here; ${text.length} characters in all.`) : null);
}

/** A two-column table of names and values. */
export function table(rows, code = false) {
  const body = h("tbody");
  for (const [name, value] of rows) {
    append(body, [h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: code && "code" }, String(value)))]);
  }
  return h("table", { class: "facts" }, body);
}

/** A JSON value in readable form: texts without quotes, the rest as JSON. */
function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
