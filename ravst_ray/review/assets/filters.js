// What of the queue is shown; kept in the address, so that a reload and a link show the same.

import { el, fill, words } from "./dom.js";

const LISTS = ["status", "reason", "label", "task"];
const NUMBERS = ["objects_min", "objects_max", "duration_min_s", "duration_max_s", "score_min", "score_max"];
const SINGLE = ["section", "video", "reviewed"];
const SHOWN = [...LISTS, ...NUMBERS, "video", "reviewed"]; // in the form; the section has buttons of its own

/** Filters and the row shown, from the address. */
export function fromAddress() {
  const given = new URLSearchParams(window.location.hash.slice(1));
  const filters = {};
  for (const name of LISTS) if (given.has(name)) filters[name] = given.getAll(name);
  for (const name of [...NUMBERS, ...SINGLE]) if (given.get(name)) filters[name] = given.get(name);
  const event = Number(given.get("event"));
  const row = given.has("id") && Number.isInteger(event) ? { video_id: given.get("id"), event_num: event } : null;
  return { filters, row };
}

/** Filters, and the parameters that name the shown row. */
export function toAddress(filters, row) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(filters)) for (const one of [value].flat()) query.append(name, one);
  for (const [name, value] of Object.entries(row ?? {})) query.set(name, value);
  window.history.replaceState(null, "", `#${query}`);
}

/** How many filters of the form are on. */
export const filtersOn = (filters) => SHOWN.filter((name) => filters[name] !== undefined).length;

/** The form; `changed` is called with all filters when one of them is another. */
export function buildFilters(form, session, filters, changed) {
  const chips = (name, title, choices) =>
    choices.length === 0 ? null : el("fieldset", {}, el("legend", {}, title), choices.map(([value, text, says]) =>
      el("label", { class: "choice", title: says ?? null },
        el("input", { type: "checkbox", name, value, checked: (filters[name] ?? []).includes(value) }), el("span", {}, text))));
  const range = (title, low, high, step, ends) =>
    el("fieldset", { class: "range" }, el("legend", {}, title), [[low, "from", 0], [high, "to", 1]].map(([name, side, end]) =>
      el("input", { type: "number", name, step, min: 0, "aria-label": `${title} ${side}`, placeholder: ends ? String(Number(ends[end].toFixed(2))) : side, value: filters[name] ?? "" })));
  const numbered = (list) => list.map(({ name, rows, says }) => [name, `${name.includes(" ") ? name : words(name)} ${rows}`, says]);
  const reviewed = [["", "by anyone or nobody"], ["no", "by nobody"], ["yes", "by anyone"], ["second", "by others, not by me"]];
  const { ranges } = session;
  fill(
    form,
    el("input", { type: "search", name: "video", placeholder: "Part of a video’s id", "aria-label": "Part of a video’s id", value: filters.video ?? "" }),
    el("label", {}, "Reviewed ", el("select", { name: "reviewed" }, reviewed.map(([value, text]) =>
      el("option", { value, selected: (filters.reviewed ?? "") === value }, text)))),
    chips("status", "Status", session.statuses.map((one) => [one, one])),
    chips("reason", "Reason", numbered(session.reasons)),
    el("fieldset", {}, el("legend", {}, "Category"), el("select", { name: "label", "aria-label": "Category" },
      el("option", { value: "" }, "all"),
      session.labels.map(({ name, rows }) => el("option", { value: name, selected: (filters.label ?? []).includes(name) }, `${name} (${rows})`)))),
    chips("task", "Questions of", session.tasks.map((one) => [one, one])),
    range("Objects", "objects_min", "objects_max", 1, ranges.objects),
    range("Video, s", "duration_min_s", "duration_max_s", "any", ranges.duration_s),
    range("Score", "score_min", "score_max", "any", ranges.score),
    el("button", { type: "reset" }, "Clear"),
  );
  const read = () => {
    const given = new FormData(form);
    const found = filters.section ? { section: filters.section } : {};
    for (const name of LISTS) {
      const values = given.getAll(name).filter(Boolean);
      if (values.length) found[name] = values;
    }
    for (const name of [...NUMBERS, "video", "reviewed"]) if (given.get(name)) found[name] = given.get(name);
    changed(found);
  };
  form.onchange = read;
  form.onsubmit = (event) => { event.preventDefault(); read(); };
  form.onreset = (event) => { event.preventDefault(); changed(filters.section ? { section: filters.section } : {}); };
}
