// Pairing: by a link that carries the code in its fragment, or by typing the code. On an iPhone the
// installed app has a storage of its own, so there the code is typed inside the app.

import { post } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { installSteps } from "./notify.js";
import { isInstalled, isIos } from "./push.js";
import { deviceName } from "./words.js";

/** A name longer than this is no name. */
const NAME_CHARS_MAX = 60;

/** Takes the code out of the address, so that it stays in no history and no screenshot. */
export function takeCode() {
  const code = codeIn(location.hash);
  if (code) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

/** The code in a fragment or a whole pairing link; null if there is none. */
export function codeIn(text) {
  const found = /#pair=([^&\s]+)/.exec(text);
  if (!found) return null;
  try {
    return decodeURIComponent(found[1]);
  } catch {
    return found[1];
  }
}

/** Shows the pairing page in `box`; calls `paired()` when done, `back()` if offered and chosen. */
export function showPairing(box, { code, paired, back, session }) {
  const wait = isIos() && !isInstalled();
  fill(box,
    h("h2", { id: "pair-title", tabindex: "-1" }, "Pair this device"),
    back ? h("p", {}, `This device is already paired as “${session.name}” of ${session.person}. Pair it anew only if that is wrong.`)
      : h("p", {}, "Portero shows what happens at your door only to paired devices."),
    wait ? iosFirst(code) : null,
    wait ? h("details", {}, h("summary", {}, "Pair only this browser, without notifications"), formOf()) : formOf(),
    h("details", { class: "help" },
      h("summary", {}, "Where do I get a code?"),
      h("p", {}, "Whoever runs Portero types ", h("code", {}, "portero pair NAME"),
        " and gets a link, a QR code and a code. Each works once and for a short time."),
      h("p", {}, "In the app on an iPhone's Home Screen, type the code here: a link would open in Safari instead.")));
  box.hidden = false;

  function formOf() {
    const problem = h("p", { class: "problem", role: "alert", id: "pair-problem" });
    const codeField = h("input", {
      id: "pair-code", name: "code", required: true, autocomplete: "one-time-code", autocapitalize: "none",
      autocorrect: "off", spellcheck: "false", "aria-describedby": "pair-problem", value: wait ? null : code,
    });
    const name = h("input", {
      id: "pair-name", name: "name", required: true, maxlength: NAME_CHARS_MAX, autocomplete: "off", value: deviceName(),
    });
    const button = h("button", {}, "Pair");
    const form = h("form", { class: "stack" },
      h("label", {}, h("span", {}, "Code"), codeField),
      h("label", {}, h("span", {}, "Name of this device"), name),
      problem,
      h("p", { class: "buttons" }, button, back ? h("button", { type: "button", class: "quiet", onclick: back }, "Keep as it is") : null));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const typed = (codeIn(codeField.value) ?? codeField.value).trim();
      if (!typed) return;
      button.disabled = true;
      problem.textContent = "";
      try {
        await post("/api/pair", { code: typed, name: name.value.trim().slice(0, NAME_CHARS_MAX) || deviceName() });
        paired();
      } catch (error) {
        problem.textContent = wordsOf(error);
        codeField.setAttribute("aria-invalid", "true");
        codeField.focus();
      } finally {
        button.disabled = false;
      }
    });
    return form;
  }
}

function iosFirst(code) {
  return h("div", { class: "note" },
    h("p", {}, icon("phone"), " On iPhone and iPad, install Portero first, so that it can notify you:"),
    installSteps("Open Portero from the Home Screen and type this code there:"),
    code ? h("p", { class: "code-big" }, h("code", {}, code)) : h("p", {}, "the code you were given."));
}

function wordsOf(error) {
  if (error.status === 403) return "This code is wrong, too old or already used. Ask for a new one: portero pair NAME.";
  if (error.status === 429) return "Too many tries. Wait a minute, then try again.";
  return error.message;
}
