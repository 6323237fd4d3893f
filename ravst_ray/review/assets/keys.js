// What each key does: one table, for the keyboard and for the help.

import { el, fill } from "./dom.js";

/** Groups of [title, [[keys, what it does, action], …]]; keys as `KeyboardEvent.key` gives them. */
export function listenToKeys(groups, dialog) {
  const actions = new Map(groups.flatMap(([, rows]) => rows.flatMap(([keys, , run]) => keys.map((key) => [key, run]))));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return; // its own keys: Escape closes it
    const field = event.target.closest?.("input, select, textarea");
    if (field) {
      if (event.key === "Escape") field.blur();
      if (field.type !== "checkbox") return;
    }
    if ((event.key === " " || event.key === "Enter") && event.target.closest?.("button, summary, input")) return; // it is pressed
    const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const run = actions.get(event.key) ?? actions.get(letter);
    if (!run) return;
    event.preventDefault();
    run(event);
  });
  // A button that was clicked doesn't keep the focus: else the space key would press it again.
  document.addEventListener("click", (event) => event.detail > 0 && event.target.closest("button, summary")?.blur());
  fill(dialog, head("Keys", dialog), el("div", { class: "keys" }, groups.map(([title, rows]) =>
    el("section", {}, el("h3", {}, title), el("dl", {}, rows.map(([keys, says]) =>
      [el("dt", {}, shownKeys(keys)), el("dd", {}, says)]))))));
}

const NAMES = { " ": "space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "esc", Delete: "del", Home: "home" };

/** More than four are told by the first and the last. */
function shownKeys(keys) {
  const some = keys.length > 4 ? [keys[0], "…", keys.at(-1)] : keys;
  return some.map((key) => (key === "…" ? key : el("kbd", {}, NAMES[key] ?? key.toLowerCase())));
}

/** A dialog's title and the button that closes it. */
export const head = (title, dialog) =>
  el("header", {}, el("h2", {}, title), el("button", { type: "button", on: { click: () => dialog.close() } }, "Close"));
