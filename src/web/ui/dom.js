// Builds elements. The only way text gets onto the page: every value becomes a text node or an
// attribute, never markup, so nothing that a camera, a webhook or a rule says can run here.

import { ICONS } from "./icons.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * h("button", { class: "quiet", onclick: f }, "Text", child): an element. Properties starting with
 * "on" are listeners; false, null and undefined leave the attribute away; true sets it empty.
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** Appends nodes and texts; lists are flattened, empty values skipped. */
export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Replaces what is inside `element`. */
export function fill(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

/** Changes a text only if it differs, so that live regions are not read out twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A drawing from icons.js. It always stands beside words, so it is hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("focusable", "false");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name] ?? ICONS.dot);
  svg.append(path);
  return svg;
}

/** A small label; `tone` is one of good, warn, bad, plain. */
export function chip(text, tone = "plain", title) {
  return h("span", { class: `chip ${tone}`, title }, text);
}

/** An address that may be shown as a picture: https only. */
export function safeImage(text) {
  try {
    const url = new URL(text);
    return url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/** A picture that removes itself when it cannot be had (cameras' links expire). */
export function picture(address, alt) {
  const src = safeImage(address);
  if (!src) return null;
  return h("img", {
    class: "shot", src, alt, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer",
    onerror: (event) => event.target.remove(),
  });
}
