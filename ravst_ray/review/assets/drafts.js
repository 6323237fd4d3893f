// What a person has changed of the shown event and not saved yet: boxes at key times, and the event's bounds.

import { count } from "./dom.js";
import { withKeys } from "./geometry.js";

export const NEW = -1; // the id of a track that the server doesn't know yet

export class Drafts extends EventTarget {
  #keys = new Map(); // track id -> Map of time_s -> box, or null: not visible
  #bounds = null;
  #name = null; // of the new track

  get any() {
    return this.#bounds !== null || this.#keys.size > 0;
  }

  /** Begin a track of an object that was overlooked; its boxes come by `setKey`. */
  add(name) {
    this.#name = name;
    this.#keys.set(NEW, new Map());
    this.#changed();
  }

  get bounds() {
    return this.#bounds;
  }

  keysOf(trackId) {
    return this.#keys.get(trackId) ?? new Map();
  }

  /** A box of a track at a time of the grid; null: not visible there. */
  setKey(trackId, time_s, box) {
    if (!this.#keys.has(trackId)) this.#keys.set(trackId, new Map());
    this.#keys.get(trackId).set(time_s, box);
    this.#changed();
  }

  setBounds(start_s, end_s) {
    this.#bounds = { start_s, end_s };
    this.#changed();
  }

  clear() {
    this.#keys.clear();
    this.#bounds = null;
    this.#changed();
  }

  /** Forget what is of no track of `event` any more, after someone else has changed it. */
  keepWhatFits(event) {
    const ids = new Set([NEW, ...event.tracks.map((track) => track.track_id)]);
    for (const trackId of this.#keys.keys()) if (!ids.has(trackId)) this.#keys.delete(trackId);
    this.#changed();
  }

  /** The event as it will be. */
  shown(event) {
    const audible = event.objects.some((thing) => thing.name === this.#name && thing.audible);
    const added = { track_id: NEW, name: this.#name, audible, times_s: [], boxes_xyxy_px: [] };
    const tracks = [...event.tracks, ...(this.#keys.has(NEW) ? [added] : [])].map((track) =>
      this.#keys.has(track.track_id) ? withKeys(track, this.#keys.get(track.track_id), event.frame_times_s) : track,
    );
    return { ...event, ...this.#bounds, tracks };
  }

  /** The edits to send, in order, each with what makes it no draft any more. Boxes go first: new bounds bring a new grid. */
  *edits() {
    for (const [trackId, placed] of [...this.#keys]) {
      const keys = [...placed].sort(([a], [b]) => a - b).map(([time_s, box]) => ({ time_s, box_xyxy_px: box }));
      const which = trackId === NEW ? { op: "add_track", name: this.#name } : { op: "boxes", track_id: trackId };
      if (keys.length) yield [{ ...which, keys }, () => this.#keys.delete(trackId) && this.#changed()];
    }
    if (this.#bounds) {
      yield [{ op: "bounds", ...this.#bounds }, () => { this.#bounds = null; this.#changed(); }];
    }
  }

  /** In words: "2 boxes of track 1, the event’s bounds". */
  says() {
    const parts = [...this.#keys].map(([id, keys]) =>
      `${keys.size === 1 ? "a box" : count(keys.size, "box", "boxes")} of ${id === NEW ? `“${this.#name}”: draw it at its first and last time` : `track ${id}`}`);
    if (this.#bounds) parts.push("the event’s bounds");
    return parts.join(", ");
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
