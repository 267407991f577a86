// Doors: the list of those this person may open with what happened at them, and the page that asks
// before one opens. Nothing here opens by itself: every opening is one press on a page that shows
// the door and the event, and each page is good for one press.

import { gather, get, post } from "./api.js";
import { chip, fill, h, icon, setText } from "./dom.js";
import { ago, clock, kindOf, moment, placeOf } from "./words.js";

/** Many stream events in a row cause one fetch. */
const FETCH_PAUSE_MS = 300;
/** An opening may take as long as the system does to answer and the door to confirm. */
const OPEN_WAIT_MS = 45_000;
const TICK_MS = 1_000;

/** What a step is called: [words, tone]. */
const STEPS = {
  pressed: ["pressed", "plain"],
  denied: ["denied", "bad"],
  commanded: ["told to open", "good"],
  confirmed: ["opened", "good"],
  unconfirmed: ["not confirmed", "warn"],
  refused: ["refused", "bad"],
  unknown: ["result unknown", "warn"],
  opened_elsewhere: ["opened by others", "warn"],
};

/** What the page says after a press: [words, tone]. */
const RESULTS = {
  confirmed: ["It is open: the door's own signal says so.", "good"],
  commanded: ["It was told to open. This door cannot say whether it did.", "good"],
  unconfirmed: ["It was told to open, but its own signal did not come. Please look.", "warn"],
  refused: ["It was not opened.", "bad"],
  unknown: ["Nobody knows whether it opened. It is not told again; please look.", "warn"],
};

/** `{ door, event }` in an address such as `#door=front&event=…`; null if there is none. */
export function doorIn(hash) {
  const found = /^#door=([A-Za-z0-9_-]+)(?:&event=([0-9a-f]{32}))?$/.exec(hash);
  return found ? { door: found[1], event: found[2] ?? null } : null;
}

// ---- the list --------------------------------------------------------------------------------

/** `known(some)` says whether there is any door for this person. */
export function makeDoors(box, { known }) {

  const { soon, cancel } = gather(() => refresh(), FETCH_PAUSE_MS);

  async function refresh() {
    const { doors, audit } = await get("/api/doors");
    known(doors.length > 0);
    const focus = box.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    fill(box,
      h("ul", { class: "bare" }, doors.map(doorOf)),
      h("div", { class: "card", id: "door-audit" },
        h("h3", {}, icon("list"), " What happened"),
        audit.length === 0 ? h("p", { class: "fine" }, "Nothing yet.")
          : h("ol", { class: "bare audit" }, audit.map((one) => lineOf(one, doors)))));
    if (focus) box.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
  }

  function clear() {
    cancel();
    box.replaceChildren();
    known(false);
  }

  return { refresh, soon, clear };
}

function doorOf(door) {
  return h("li", { class: "card door" },
    h("p", {}, icon("door"), " ", h("b", {}, door.title)),
    h("p", { class: "fine" }, door.system, door.reads_back ? "" : ", cannot say whether it opened"),
    h("a", { class: "button", href: `#door=${encodeURIComponent(door.door)}` }, `Open ${door.title}…`));
}

function lineOf(line, doors) {
  const [words, tone] = STEPS[line.what] ?? [line.what, "plain"];
  const title = doors.find((one) => one.door === line.door)?.title ?? line.door;
  return h("li", {},
    h("p", {}, h("time", { datetime: line.at, title: moment(line.at) }, clock(line.at)), " ", h("b", {}, title), " ", chip(words, tone)),
    h("p", { class: "fine" }, whoOf(line),
      line.event ? [" ", h("a", { href: `#event=${line.event}` }, "the event")] : null,
      typeof line.ms === "number" ? `, ${line.ms} ms` : ""),
    line.why ? h("p", { class: "miss" }, line.why) : null);
}

function whoOf(line) {
  if (line.by === "person") return `${line.person} on ${line.device || "a phone"}`;
  if (line.by === "terminal") return "at the terminal";
  if (line.rule) return `rule “${line.rule}”`;
  return [line.user, line.method].filter(Boolean).join(", ") || "not by Portero";
}

// ---- the page that asks ------------------------------------------------------------------------

/** Shows the page for one door in `box`; `back()` leads away. Answers what ends it. */
export function showDoor(box, { door, event, back }) {
  let timer = 0;
  let over = false;
  const status = h("p", { id: "door-status", class: "door-status", role: "status", "aria-live": "polite" });
  const leave = h("p", { class: "buttons" }, h("button", { type: "button", class: "quiet", onclick: back }, "Back to the house"));

  start();
  return () => {
    over = true;
    clearInterval(timer);
    box.replaceChildren();
  };

  async function start() {
    fill(box, h("h2", { id: "door-title", tabindex: "-1" }, "Open a door"), h("p", { class: "busy" }, "Asking Portero…"));
    box.querySelector("h2").focus();
    let asked;
    try {
      asked = await post(`/api/doors/${encodeURIComponent(door)}/ask`, { event });
    } catch (error) {
      if (!over) failed(error);
      return;
    }
    if (!over) show(asked);
  }

  function failed(error) {
    fill(box,
      h("h2", { id: "door-title", tabindex: "-1" }, "Open a door"),
      h("p", { class: "problem", role: "alert" }, error.message),
      error.status === 0 ? h("p", { class: "buttons" }, h("button", { type: "button", onclick: start }, "Try again")) : null,
      leave);
    box.querySelector("h2").focus();
  }

  function show(asked) {
    const until = Date.now() + asked.expires_in * 1000;
    const left = h("p", { class: "fine" });
    const button = h("button", { type: "button", id: "door-open", class: "big", onclick: () => press(asked, button, left) },
      icon("door"), ` Open ${asked.title}`);
    fill(box,
      h("h2", { id: "door-title", tabindex: "-1" }, `Open ${asked.title}?`),
      aboutOf(asked, event),
      button, left, setSaid(""), leave);
    box.querySelector("h2").focus();
    clearInterval(timer);
    const tick = () => {
      const seconds = Math.ceil((until - Date.now()) / 1000);
      if (seconds > 0) return setText(left, `This page can be pressed for ${seconds} seconds.`);
      clearInterval(timer);
      if (button.disabled) return undefined;
      button.disabled = true;
      setText(left, "");
      return again("This page has been open too long to be pressed.", "warn");
    };
    tick();
    timer = setInterval(tick, TICK_MS);
  }

  async function press(asked, button, left) {
    // Before anything else: a second tap must find nothing to press.
    button.disabled = true;
    clearInterval(timer);
    setText(left, "");
    status.className = "door-status busy";
    setText(status, `Opening ${asked.title}…`);
    try {
      const { outcome, why } = await post(`/api/doors/${encodeURIComponent(door)}/open`, { token: asked.token, event }, OPEN_WAIT_MS);
      if (over) return;
      const [words, tone] = RESULTS[outcome] ?? [outcome, "warn"];
      again(words, tone, why);
    } catch (error) {
      if (over) return;
      if (error.status === 0) again("Portero did not answer: nobody knows whether it opened. Please look.", "warn");
      else again("It was not opened.", "bad", error.message);
    }
  }

  function setSaid(words) {
    status.className = "door-status";
    setText(status, words);
    return status;
  }

  function again(words, tone, why) {
    status.className = `door-status ${tone}`;
    status.dataset.tone = tone;
    setText(status, why ? `${words} ${sentence(why)}` : words);
    const anew = h("p", { class: "buttons" }, h("button", { type: "button", class: "quiet", onclick: start }, "Ask anew"));
    status.after(anew);
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

function aboutOf(asked, event) {
  if (!event) return h("p", {}, "You open it by yourself; no event is behind it.");
  if (!asked.event) return h("p", {}, "The event behind this is too far back to be shown.");
  const kind = kindOf(asked.event);
  const old = asked.age_s > 60;
  return h("div", { class: "about" },
    h("p", {}, icon(kind.icon), " ", h("b", {}, kind.words), " ", h("span", { class: "where" }, placeOf(asked.event))),
    h("p", { class: old ? "miss" : "fine" }, `${ago(asked.event.received)}, ${moment(asked.event.received)}`,
      old ? ". Whoever it was may be gone." : ""));
}
