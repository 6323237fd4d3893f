// A list at the page's side: pages of 50 that are asked for while one scrolls.

import { get } from "./api.js";
import { el, fill } from "./dom.js";

const PAGE = 50;

/** Events: "pick" (`detail`: an item), "loaded", "failed" (`detail`: an error). A kind of list says with what it is filled:
 *  `path`, `idOf(item)`, `from(items)` (parameters of the page behind them), `headings(item, before)`, `content(item)`, `took(page)`. */
export class List extends EventTarget {
  items = [];
  total = 0;
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

  headings() {
    return [];
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
      const page = await get(this.path, { ...this.#filters, ...this.from(this.items), limit: PAGE }, signal);
      if (signal.aborted) return;
      const known = new Set(this.items.map((item) => this.idOf(item)));
      const fresh = page.items.filter((item) => !known.has(this.idOf(item)));
      const last = this.items.at(-1);
      this.items.push(...fresh);
      this.total = page.items.length < PAGE ? this.items.length : Math.max(page.total, this.items.length + 1);
      this.took(page);
      this.#end.before(...this.#rowsOf(fresh, last));
      this.#end.textContent = this.items.length ? (this.items.length < this.total ? " " : "") : "Nothing here.";
      this.dispatchEvent(new Event("loaded"));
    } catch (error) {
      if (signal.aborted) return;
      this.total = this.items.length; // asked again by loading anew
      this.#end.textContent = error.message;
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    }
  }

  #rowsOf(items, last) {
    return items.flatMap((item, index) =>
      [...this.headings(item, items[index - 1] ?? last), el("li", { data: { id: this.idOf(item) } }, this.#row(item))]);
  }

  #row(item) {
    const current = this.idOf(item) === this.#current ? "true" : null;
    const pick = () => this.dispatchEvent(new CustomEvent("pick", { detail: item }));
    return el("button", { type: "button", class: "row", "aria-current": current, on: { click: pick } }, this.content(item));
  }

  /** Mark a row as the shown one. */
  select(id) {
    for (const row of this.#list.querySelectorAll('[aria-current="true"]')) row.removeAttribute("aria-current");
    this.#current = id;
    const row = this.#find(id)?.firstChild;
    row?.setAttribute("aria-current", "true");
    row?.scrollIntoView({ block: "nearest" });
  }

  #find(id) {
    return [...this.#list.children].find((row) => row.dataset.id === id) ?? null;
  }

  /** Something of a row has changed. */
  update(id, changes) {
    const item = this.items.find((one) => this.idOf(one) === id);
    if (!item) return;
    Object.assign(item, changes);
    fill(this.#find(id), this.#row(item));
  }

  /** The row some places before or behind, null where there is none. */
  async beside(id, places) {
    const index = this.items.findIndex((item) => this.idOf(item) === id);
    if (index + places >= this.items.length) await this.more();
    return this.items[index + places] ?? null;
  }
}
