// Verdicts on the shown event: sent, taken back, and what isn't saved.

import { post } from "./api.js";
import { byId, el, fill } from "./dom.js";
import { did } from "./panels.js";
import { banner, say } from "./says.js";

export const reviewer = () => byId("reviewer").value.trim() || null;

export class Verdicts {
  #page;
  #drafts;
  #queue;
  #sending = false;
  #shownMs = 0; // how long the item has been looked at, before `sinceMs`
  #sinceMs = null;
  #done = []; // what this page did, to take back: {video_id, event_num, version, annotation_id}

  /** page: {item, event, session: what is shown now; adopt(item), open(video_id, event_num), poll(), edit(), go(places), chosen: a track or null, choose(null)}. */
  constructor(page, drafts, queue) {
    this.#page = page;
    this.#drafts = drafts;
    this.#queue = queue;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden && this.#sinceMs !== null) [this.#shownMs, this.#sinceMs] = [this.#shownMs + performance.now() - this.#sinceMs, null];
      else if (!document.hidden) this.#sinceMs = performance.now();
    });
    window.addEventListener("beforeunload", (leaving) => (drafts.any || this.#sending) && leaving.preventDefault());
  }

  /** Another item is shown from now on. */
  begin() {
    this.#shownMs = 0;
    this.#sinceMs = document.hidden ? null : performance.now();
  }

  #seconds() {
    return (this.#shownMs + (this.#sinceMs === null ? 0 : performance.now() - this.#sinceMs)) / 1000;
  }

  /** Send a verdict on the shown event; true when it is saved. */
  async send(verdict) {
    const { item, event, session } = this.#page;
    if (!item || this.#sending || !session.writable) return false;
    const section = this.#queue.items.find((one) => one.annotation_id === item.annotation_id)?.section ?? null;
    const place = { video_id: item.video_id, event_num: event.event_num, on: item.version };
    const seconds = Math.round(10 * this.#seconds()) / 10;
    return this.#deliver(() => post("/api/verdict", { qa_id: null, edit: null, reviewer: reviewer(), seconds, section, ...place, ...verdict }), (found) => {
      this.#done.push({ video_id: place.video_id, event_num: place.event_num, version: found.version });
      return did(found.history.at(-1) ?? { what: verdict.what });
    });
  }

  /** Post something and show how the item is then. `saved` gives what to say. */
  async #deliver(request, saved) {
    this.#sending = true;
    say("saving …", "busy");
    this.show();
    try {
      const { item: found } = await request();
      this.#page.adopt(found);
      say(`saved: ${saved(found)}`, "good");
      return true;
    } catch (error) {
      if (error.status === 409 && error.item) {
        const last = error.item.history.filter((one) => one.event_num === error.item.event_num).at(-1);
        this.#page.adopt(error.item);
        banner("conflict", last ? `${last.who} was faster: ${last.who} ${did(last)}. Nothing of yours was changed or saved; this is how the row is now.` : error.message);
        say("not saved", "bad");
      } else {
        say(error.status === 422 ? `not saved: ${error.message}` : "not saved", "bad");
        if (error.status !== 422) banner("failed", error.message);
      }
      return false;
    } finally {
      this.#sending = false;
      if (this.#page.item) this.show();
    }
  }

  async judge(what) {
    const { session, item } = this.#page;
    if (!session.writable) return say(session.why_not ?? "This output can’t be written.", "bad");
    if (this.#drafts.any) return say("Save (S) or discard (Esc) the changes first.", "bad");
    const before = item?.annotation_id ?? null;
    if ((await this.send({ what })) && this.#page.item?.annotation_id === before) {
      const text = byId("status").textContent;
      const next = await this.#queue.beside(before, 1);
      if (next) await this.#page.open(next.video_id, next.event_num);
      say(next ? text : `${text}. That was the last row of the queue.`, "good");
      this.#page.poll();
    }
    return undefined;
  }

  async undo() {
    if (this.#sending || !this.#page.session.writable) return;
    if (this.#drafts.any) return this.discard();
    const { item, event } = this.#page;
    const last = this.#done.pop() ?? (item?.can_undo ? { video_id: item.video_id, event_num: event.event_num, version: item.version } : null);
    if (!last) return say("There is nothing to take back.");
    const { video_id, event_num } = last;
    if (video_id !== item?.video_id || event_num !== event?.event_num) await this.#page.open(video_id, event_num);
    // Where this page undid something later of the same event, the version has moved on with it.
    const on = this.#page.item?.version ?? last.version;
    await this.#deliver(() => post("/api/undo", { video_id, event_num, on, reviewer: reviewer() }), () => "taken back");
    this.#page.poll();
  }

  async save() {
    if (!this.#drafts.any || this.#sending) return;
    for (const [edit, settled] of [...this.#drafts.edits()]) {
      if (!(await this.send({ what: "edit", edit }))) return; // what isn't saved stays a draft
      settled();
    }
  }

  discard() {
    if (this.#drafts.any) {
      this.#drafts.clear();
      say("discarded");
    } else if (this.#page.chosen !== null) this.#page.choose(null);
  }

  /** The buttons; above them what isn't saved, else, of a chosen track, how it is changed. */
  show() {
    this.#showUnsaved();
    const { item, event, session, edit, go } = this.#page;
    const { writable, why_not: whyNot } = session;
    const button = (text, key, run, attributes = {}) =>
      el("button", { type: "button", on: { click: run }, ...attributes }, text, " ", el("kbd", {}, key));
    const off = !writable || this.#sending;
    const verdict = event?.verdict;
    fill(byId("verdicts"),
      button("Accept", "a", () => this.judge("accept"), { class: "accept", disabled: off, "aria-pressed": String(verdict === "accepted"), title: whyNot }),
      button("Reject", "r", () => this.judge("reject"), { class: "reject", disabled: off, "aria-pressed": String(verdict === "rejected"), title: whyNot }),
      button("Undo", "u", () => this.undo(), { disabled: off || !(this.#done.length || item?.can_undo), title: whyNot }),
      button("Edit", "e", edit, { disabled: off, title: whyNot }),
      el("span", { class: "gap" }),
      button("Previous", "p", () => go(-1)),
      button("Next", "n", () => go(1)));
  }

  #showUnsaved() {
    const root = byId("unsaved");
    const track = this.#page.chosen;
    const chosen = this.#page.session.writable && track !== null;
    root.hidden = !this.#drafts.any && !chosen;
    root.classList.toggle("dirty", this.#drafts.any);
    const keys = (...names) => names.map((name) => [el("kbd", {}, name), " "]);
    if (this.#drafts.any) {
      fill(root, el("p", {}, "Not saved: ", this.#drafts.says()),
        el("button", { type: "button", class: "main", on: { click: () => this.save() } }, "Save ", el("kbd", {}, "s")),
        el("button", { type: "button", on: { click: () => this.discard() } }, "Discard ", el("kbd", {}, "esc")));
    } else if (chosen) {
      fill(root, el("p", { class: "hint" }, `Track ${track}: drag its box or edges · `, keys("←", "→", "↑", "↓"), "move it (",
        keys("shift"), "size) · ", keys(",", "."), "other times · ", keys("x"), "not visible · ", keys("e"), "next · ", keys("esc"), "none"));
    }
  }

  /** The keys, as `listenToKeys` wants them. */
  keys() {
    return [
      [["a"], "accept, and go on", () => this.judge("accept")],
      [["r"], "reject, and go on", () => this.judge("reject")],
      [["u"], "take back what was said last", () => this.undo()],
      [["n", "j"], "next row", () => this.#page.go(1)],
      [["p", "k"], "previous row", () => this.#page.go(-1)],
    ];
  }
}
