// What the page says: a word at the top, sentences above everything, and over or under the picture.

import { byId, el } from "./dom.js";

export function say(text, kind = "") {
  const status = byId("status");
  status.className = kind;
  status.textContent = text;
}

/** A sentence above everything, until it is closed or `key` is said anew; null: none any more. */
export function banner(key, text, closable = true) {
  byId("banners").querySelector(`[data-key="${key}"]`)?.remove();
  if (text === null) return;
  const close = el("button", { type: "button", on: { click: () => line.remove() } }, "Close");
  const line = el("div", { class: "banner", data: { key } }, el("p", {}, text), closable ? close : null);
  byId("banners").append(line);
}

/** What is wrong with a file that is shown all the same. */
export function trouble(text) {
  byId("player-says").hidden = text === null;
  byId("player-says").textContent = text ?? "";
}

/** In the picture's place. */
export function stageSays(text) {
  byId("stage-says").hidden = text === null;
  byId("stage-says").textContent = text ?? "";
}
