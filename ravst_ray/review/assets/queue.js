// The queue of rows, by risk.

import { count, el, fill, span, words } from "./dom.js";
import { List } from "./list.js";

const TITLES = {
  suspect: "Suspect", rejected: "Rejected, the thinnest margin first", sample: "Random sample of the accepted", rest: "Everything else",
};
const SHORT = { suspect: "Suspect", rejected: "Rejected", sample: "Sample", rest: "Rest" };

export class Queue extends List {
  path = "/api/queue";
  rows = 0;
  sections = {};

  idOf(item) {
    return item.annotation_id;
  }

  from(items) {
    return { after: items.at(-1)?.annotation_id };
  }

  took(page) {
    this.rows = page.rows;
    this.sections = page.sections;
  }

  headings(item, before) {
    return item.section === before?.section ? [] : [el("li", { class: "section" }, TITLES[item.section] ?? item.section)];
  }

  content(item) {
    const status = item.verdict ?? item.status;
    const reviewed = item.verdict ? "by a person" : "by the machine";
    return [
      el("i", { class: `dot ${status}${item.verdict ? " sure" : ""}`, title: `${status} ${reviewed}` }),
      el("b", {}, item.label),
      el("span", { class: "when" }, span(item.start_s, item.end_s)),
      el("span", { class: "where" }, `${item.video_id} · event ${item.event_num}`),
      el("span", { class: "more" }, this.#notes(item)),
    ];
  }

  #notes(item) {
    const objects = count(item.objects, "object");
    const score = item.score === null ? null : ` · score ${item.score.toFixed(2)}`;
    const reasons = item.reasons.map((reason) => el("em", {}, words(reason)));
    return [objects, score, item.edited ? " · edited" : null, reasons];
  }
}

/** Buttons that choose a section: how many rows it has that nobody has reviewed. */
export function sectionButtons(root, sections, rows, chosen, choose) {
  const button = (key, name, left, title) =>
    el("button", { type: "button", "aria-pressed": String((chosen ?? "") === key), title, on: { click: () => choose(key || null) } },
      name, el("small", {}, left.toLocaleString("en")));
  const some = Object.entries(sections).filter(([, one]) => one.rows > 0);
  const left = some.reduce((sum, [, one]) => sum + one.left, 0);
  fill(root, button("", "All", left, `${rows} rows, ${left} of them reviewed by nobody`),
    some.map(([key, one]) => button(key, SHORT[key] ?? key, one.left, `${TITLES[key] ?? key}: ${one.rows} rows, ${one.left} reviewed by nobody`)));
}
