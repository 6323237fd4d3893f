// What a person has changed of the shown event and not saved yet: boxes at key times, and the event's bounds.

import { withKeys } from "./geometry.js";

export class Drafts extends EventTarget {
  #keys = new Map(); // track id -> Map of time_s -> box, or null: not visible
  #bounds = null;

  get any() {
    return this.#bounds !== null || this.#keys.size > 0;
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
    const ids = new Set(event.tracks.map((track) => track.track_id));
    for (const trackId of this.#keys.keys()) if (!ids.has(trackId)) this.#keys.delete(trackId);
    this.#changed();
  }

  /** The event as it will be. */
  shown(event) {
    const tracks = event.tracks.map((track) =>
      this.#keys.has(track.track_id) ? withKeys(track, this.#keys.get(track.track_id), event.frame_times_s) : track,
    );
    return { ...event, ...this.#bounds, tracks };
  }

  /** The edits to send, in order, each with what makes it no draft any more. Boxes go first: new bounds bring a new grid. */
  *edits() {
    for (const [trackId, keys] of [...this.#keys]) {
      const sorted = [...keys].sort(([a], [b]) => a - b);
      const edit = { op: "boxes", track_id: trackId, keys: sorted.map(([time_s, box]) => ({ time_s, box_xyxy_px: box })) };
      yield [edit, () => this.#keys.delete(trackId) && this.#changed()];
    }
    if (this.#bounds) {
      yield [{ op: "bounds", ...this.#bounds }, () => { this.#bounds = null; this.#changed(); }];
    }
  }

  /** In words: "2 boxes of track 1, bounds". */
  says() {
    const parts = [...this.#keys].map(([id, keys]) => `${keys.size === 1 ? "a box" : `${keys.size} boxes`} of track ${id}`);
    if (this.#bounds) parts.push("the event’s bounds");
    return parts.join(", ");
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
