// Dead letters: notifications that ended without reaching anybody, and sending one again. Shown
// only while there are any.

import { gather, get, post } from "./api.js";
import { chip, fill, h, icon } from "./dom.js";
import { ago, moment, pushState } from "./words.js";

/** Many stream events in a row cause one fetch. */
const FETCH_PAUSE_MS = 500;
/** More are for the terminal: nobody reads through them on a phone. */
const SHOWN_MAX = 20;

/** `problem(words)` says what went wrong. */
export function makeDead(box, { problem }) {
  let shown = "[]";

  const { soon, cancel } = gather(() => refresh(), FETCH_PAUSE_MS);

  async function refresh() {
    const { dead } = await get("/api/dead");
    const now = JSON.stringify(dead);
    if (now === shown) return; // nothing new: leave the focus where it is
    shown = now;
    const focus = box.contains(document.activeElement) ? document.activeElement.dataset.letter : null;
    if (dead.length === 0) return box.replaceChildren();
    fill(box, h("div", { class: "card", id: "status-dead" },
      h("h3", { id: "dead-title", tabindex: "-1" }, icon("warn"), " Reached nobody ", chip(dead.length, "bad")),
      h("p", { class: "fine" }, "These notifications were not taken by any phone or system in their time."),
      h("ul", { class: "bare", "aria-labelledby": "dead-title" }, dead.slice(0, SHOWN_MAX).map(letterOf)),
      dead.length > SHOWN_MAX ? h("p", { class: "fine" }, `And ${dead.length - SHOWN_MAX} more: run `, h("code", {}, "portero dead list"), ".") : null));
    if (focus) (box.querySelector(`[data-letter="${CSS.escape(focus)}"]`) ?? box.querySelector("h3")).focus();
  }

  function letterOf(letter) {
    const to = letter.person ? `${letter.person}, ${letter.name || (letter.to ? "a phone" : "no phone")}` : letter.to;
    return h("li", {},
      h("p", {}, h("b", {}, letter.title), " ", chip(to), " ",
        letter.lane === "alarm" ? [chip("alarm", "bad"), " "] : null,
        chip(pushState({ state: letter.outcome }).words, "warn")),
      h("p", { class: "fine", title: moment(letter.at) }, `${ago(letter.at)}, `, h("a", { href: `#event=${letter.event}` }, "the event"),
        letter.why ? h("span", { class: "miss" }, ` ${letter.why}`) : null),
      h("button", { type: "button", class: "quiet", "data-letter": letter.id, "aria-label": `Send again to ${to}: ${letter.title}`,
        onclick: (event) => again(letter, event.currentTarget) }, "Send again"));
  }

  async function again(letter, button) {
    button.disabled = true;
    try {
      await post(`/api/dead/${letter.id}/resend`, {});
      problem("");
    } catch (error) {
      button.disabled = false;
      return problem(`Not sent again: ${error.message}`);
    }
    return refresh();
  }

  function clear() {
    cancel();
    shown = "[]";
    box.replaceChildren();
  }

  return { refresh, soon, clear };
}
