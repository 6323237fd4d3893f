// Above the list of answers: which are shown, by what they are sorted, and the means, which are the way to choose it.

import { change } from "./answers.js";
import { byId, el, fill } from "./dom.js";

const OUTCOMES = { better: "Better", same: "Same", worse: "Worse", one: "Only one" };

/** `changed` is called with those filters that are others now. */
export function showSort(session, filters, summary, changed) {
  showOutcomes(summary, filters, changed);
  if (!byId("filter-form").childElementCount) buildForm(session, filters, changed);
  showMeans(session, filters, summary, changed);
}

function showOutcomes({ rows, outcomes }, filters, changed) {
  const button = (key, name, number) =>
    el("button", { type: "button", "aria-pressed": String((filters.outcome ?? "") === key), on: { click: () => changed({ outcome: key }) } },
      name, el("small", {}, number.toLocaleString("en")));
  const some = Object.entries(outcomes ?? {}).filter(([key, number]) => number || key !== "one");
  fill(byId("sections"), button("", "All", rows), some.map(([key, number]) => button(key, OUTCOMES[key], number)));
}

/** Once: what it says is always what is on, and it keeps the focus. */
function buildForm(session, filters, changed) {
  const form = byId("filter-form");
  const names = session.runs.map((run) => run.name);
  const orders = [
    ...(names.length > 1 ? [["lost", "most lost first"], ["gained", "most gained first"]] : []),
    ...names.flatMap((name, run) => [[`worst ${run}`, names.length > 1 ? `worst of ${name} first` : "worst first"], [`best ${run}`, names.length > 1 ? `best of ${name} first` : "best first"]]),
    ["file", "in the order of the questions"],
  ];
  const order = ["worst", "best"].includes(filters.order) ? `${filters.order} ${filters.run ?? 0}` : filters.order;
  fill(form,
    el("input", { type: "search", name: "text", placeholder: "Part of an id or a question", "aria-label": "Part of an id or a question", value: filters.text ?? "" }),
    session.tasks.length > 1 ? el("fieldset", { "aria-label": "Tasks" }, session.tasks.map((task) => el("label", { class: "choice" },
      el("input", { type: "checkbox", name: "task", value: task, checked: (filters.task ?? []).includes(task) }), el("span", {}, task)))) : null,
    el("select", { name: "order", "aria-label": "Order" }, orders.map(([value, text]) => el("option", { value, selected: order === value }, text))));
  form.onchange = () => {
    const given = new FormData(form);
    const [sort, run] = given.get("order").split(" ");
    changed({ text: given.get("text").trim(), task: given.getAll("task"), order: sort, run: run === "1" ? run : "" });
  };
  form.onsubmit = (event) => { event.preventDefault(); form.onchange(); };
}

/** A row for each part: its means, and a press sorts by it. */
function showMeans(session, filters, { means }, changed) {
  const by = filters.by ?? "total";
  const root = byId("means") ?? el("div", { id: "means", class: "scroll" });
  byId("filters").append(root);
  const value = (number) => (number === null || number === undefined ? "–" : number.toFixed(2));
  const some = [["truncated", "cut off"], ["malformed", "malformed"]].filter(([key]) => session.runs.some((run) => run[key]));
  const faults = some.map(([key, name]) => `${name}: ${session.runs.map((run) => run[key].toLocaleString("en")).join(" → ")}`);
  fill(root, faults.length ? el("p", { class: "hint", title: "Of all answers of the file" }, faults.join(" · ")) : null, el("table", {},
    el("thead", {}, el("tr", {}, el("th", {}, "mean"), session.runs.map((run) => el("th", { class: "n", title: run.place }, run.name)), session.runs.length > 1 ? el("th", { class: "n" }, "±") : null)),
    el("tbody", {}, Object.entries(means).map(([name, numbers]) => el("tr", { class: name === by ? "chosen" : null },
      el("th", { scope: "row" }, el("button", { type: "button", "aria-pressed": String(name === by), title: "Sort and compare by it", on: { click: () => changed({ by: name === "total" ? "" : name }) } }, name)),
      session.runs.map((_, index) => el("td", { class: "n" }, value(numbers[index]))),
      session.runs.length > 1 ? el("td", { class: `n change ${numbers[2] > 0 ? "up" : numbers[2] < 0 ? "down" : ""}` }, numbers[2] === null ? "–" : change(Math.round(numbers[2] * 1e6) / 1e6)) : null)))));
}
