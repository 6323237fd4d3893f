// The list of rows, by risk: pages of 50 that are asked for while one scrolls.

import { get } from "./api.js";
import { count, el, fill, span, words } from "./dom.js";

const PAGE = 50;
const TITLES = {
  suspect: "Suspect", rejected: "Rejected, the thinnest margin first", sample: "Random sample of the accepted", rest: "Everything else",
};
const SHORT = { suspect: "Suspect", rejected: "Rejected", sample: "Sample", rest: "Rest" };

/** Events: "pick" (`detail`: an item of the list), "loaded", "failed" (`detail`: an error). */
export class Queue extends EventTarget {
  items = [];
  total = 0;
  rows = 0;
  sections = {};
  #list;
  #filters = {};
  #current = null;
  #loading = null;
  #abort = new AbortController();
  #end = el("li", { class: "end" });

  constructor(list) {
    super();
    this.#list = list;
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.more(), { root: null, rootMargin: "600px" })
      .observe(this.#end);
  }

  /** Begin anew with other filters. */
  async load(filters) {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#filters = filters;
    this.#loading = null;
    this.items = [];
    this.total = Infinity;
    fill(this.#list, this.#end);
    await this.more();
  }

  /** The next page; nothing where all is there. */
  more() {
    if (this.items.length >= this.total) return Promise.resolve();
    this.#loading ??= this.#page().finally(() => (this.#loading = null));
    return this.#loading;
  }

  async #page() {
    const { signal } = this.#abort;
    this.#end.textContent = "Loading …";
    try {
      const page = await get("/api/queue", { ...this.#filters, after: this.items.at(-1)?.annotation_id, limit: PAGE }, signal);
      if (signal.aborted) return;
      const known = new Set(this.items.map((item) => item.annotation_id));
      const fresh = page.items.filter((item) => !known.has(item.annotation_id));
      const section = this.items.at(-1)?.section;
      this.items.push(...fresh);
      this.total = page.items.length < PAGE ? this.items.length : Math.max(page.total, this.items.length + 1);
      this.rows = page.rows;
      this.sections = page.sections;
      this.#end.before(...this.#rowsOf(fresh, section));
      this.#end.textContent = this.items.length ? (this.items.length < this.total ? " " : "") : "Nothing here.";
      this.dispatchEvent(new Event("loaded"));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.total = this.items.length; // asked again by loading anew
      this.#end.textContent = error.message;
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    }
  }

  #rowsOf(items, section) {
    return items.flatMap((item) => {
      const title = item.section === section ? [] : [el("li", { class: "section" }, TITLES[item.section] ?? item.section)];
      section = item.section;
      return [...title, el("li", { data: { id: item.annotation_id } }, this.#row(item))];
    });
  }

  #row(item) {
    const status = item.verdict ?? item.status;
    const reviewed = item.verdict ? "by a person" : "by the machine";
    return el(
      "button",
      {
        type: "button", class: "row", "aria-current": item.annotation_id === this.#current ? "true" : null,
        on: { click: () => this.dispatchEvent(new CustomEvent("pick", { detail: item })) },
      },
      el("i", { class: `dot ${status}${item.verdict ? " sure" : ""}`, title: `${status} ${reviewed}` }),
      el("b", {}, item.label),
      el("span", { class: "when" }, span(item.start_s, item.end_s)),
      el("span", { class: "where" }, `${item.video_id} · event ${item.event_num}`),
      el("span", { class: "more" }, this.#notes(item)),
    );
  }

  #notes(item) {
    const objects = count(item.objects, "object");
    const score = item.score === null ? null : ` · score ${item.score.toFixed(2)}`;
    const reasons = item.reasons.map((reason) => el("em", {}, words(reason)));
    return [objects, score, item.edited ? " · edited" : null, reasons];
  }

  /** Mark a row as the shown one. */
  select(annotationId) {
    for (const row of this.#list.querySelectorAll('[aria-current="true"]')) row.removeAttribute("aria-current");
    this.#current = annotationId;
    const row = this.#find(annotationId)?.firstChild;
    row?.setAttribute("aria-current", "true");
    row?.scrollIntoView({ block: "nearest" });
  }

  #find(annotationId) {
    return [...this.#list.children].find((row) => row.dataset.id === annotationId) ?? null;
  }

  /** Something of a row has changed. */
  update(annotationId, changes) {
    const item = this.items.find((one) => one.annotation_id === annotationId);
    if (!item) return;
    Object.assign(item, changes);
    fill(this.#find(annotationId), this.#row(item));
  }

  /** The row some places before or behind, null where there is none. */
  async beside(annotationId, places) {
    const index = this.items.findIndex((item) => item.annotation_id === annotationId);
    if (index + places >= this.items.length) await this.more();
    return this.items[index + places] ?? null;
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
