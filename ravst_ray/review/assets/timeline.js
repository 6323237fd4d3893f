// The video's time from left to right: sound, events, and where each track of the shown event is seen. A click seeks.

import { el, fill, short, span } from "./dom.js";
import { NEW } from "./drafts.js";
import { stacked, stepOf } from "./geometry.js";

const AROUND = 0.25; // what is seen beside an event, of its length

/** Events: "seek" (`detail`: time_s), "event" (an event_num), "track" (a track_id), "bounds" ([start_s, end_s]). */
export class Timeline extends EventTarget {
  #root;
  #player;
  #item = null;
  #event = null;
  #colors = new Map();
  #keys = () => new Map();
  #wave = null;
  #selected = null;
  #close = false; // only the event's surroundings
  #lanes = null;
  #head = null;
  writable = false;

  constructor(root, player) {
    super();
    this.#root = root;
    this.#player = player;
    player.addEventListener("time", () => this.#placeHead());
    new ResizeObserver(() => this.#drawWave()).observe(root);
  }

  /** `item.lanes`, where it is given, stands in place of the events: [{name, color, dashed, spans: [{start_s, end_s, title}]}]. */
  show(item, event, colors, keysOf, selected) {
    this.#item = item;
    this.#event = event;
    this.#colors = colors;
    this.#keys = keysOf;
    this.#selected = selected;
    this.#build();
  }

  /** {peaks, why_not} of the sound; null while it isn't known. */
  setWave(wave) {
    this.#wave = wave;
    if (this.#item) this.#build();
  }

  zoom() {
    this.#close = !this.#close;
    this.#build();
  }

  get close() {
    return this.#close;
  }

  #window() {
    const { duration_s } = this.#item.video;
    const { start_s, end_s } = this.#event;
    const more_s = AROUND * (end_s - start_s);
    return this.#close ? [Math.max(0, start_s - more_s), Math.min(duration_s, end_s + more_s)] : [0, duration_s];
  }

  #part(time_s) {
    const [from_s, to_s] = this.#window();
    return (time_s - from_s) / (to_s - from_s || 1);
  }

  #place(element, start_s, end_s) {
    const [left, right] = [start_s, end_s].map((time_s) => Math.min(Math.max(this.#part(time_s), 0), 1));
    element.style.left = `${100 * left}%`;
    element.style.width = `${100 * (right - left)}%`;
    return element;
  }

  #build() {
    const own = this.#item.lanes?.map((one) => [one.name, this.#lane(one)]) ?? this.#eventLanes();
    const lanes = [[null, this.#axis()], [null, this.#sound()], ...own];
    for (const track of this.#event.tracks) lanes.push([this.#name(track), this.#trackLane(track)]);
    this.#head = el("i", { class: "playhead" });
    this.#lanes = el("div", { class: "lanes", on: { pointerdown: (event) => this.#scrub(event) } }, lanes.map(([, lane]) => lane), this.#head);
    fill(this.#root, el("div", { class: "names" }, lanes.map(([name], index) => el("div", { class: index === 1 ? "tall" : "" }, name))), this.#lanes);
    this.#drawWave();
    this.#placeHead();
  }

  #eventLanes() {
    const events = this.#item.events.map((one) => (one.event_num === this.#event.event_num ? this.#event : one));
    const rows = stacked(events.map((one) => [one.start_s, one.end_s]));
    const lanes = [];
    for (let row = 0; row <= Math.max(0, ...rows); row += 1) {
      const bars = events.filter((_, index) => rows[index] === row).map((one) => this.#bar(one));
      lanes.push([row ? "" : events.length > 1 ? "Events" : "Event", el("div", { class: "lane events" }, bars)]);
    }
    return lanes;
  }

  #lane({ color, dashed, spans }) {
    const lane = el("div", { class: dashed ? "lane interval said" : "lane interval" },
      spans.map(({ start_s, end_s, title }) => this.#place(el("span", { title }), start_s, end_s)));
    lane.style.setProperty("--color", color);
    return lane;
  }

  #axis() {
    const [from_s, to_s] = this.#window();
    const rough = (to_s - from_s) / 6;
    const scale = 10 ** Math.floor(Math.log10(rough || 1));
    const step_s = [1, 2, 5, 10].map((one) => one * scale).find((one) => one >= rough) ?? 1;
    const axis = el("div", { class: "lane axis" });
    for (let time_s = Math.ceil(from_s / step_s) * step_s; time_s <= to_s + 1e-9; time_s += step_s) {
      const tick = el("span", {}, `${short(time_s)} s`);
      tick.style.left = `${100 * this.#part(time_s)}%`;
      if (this.#part(time_s) > 0.97) tick.className = "last";
      axis.append(tick);
    }
    return axis;
  }

  #sound() {
    const during = this.#place(el("i", { class: "during" }), this.#event.start_s, this.#event.end_s);
    const why = this.#wave ? this.#wave.why_not ?? "no sound" : "reading the sound …";
    const says = this.#wave?.peaks ? null : el("span", { class: "none" }, why);
    return el("div", { class: "lane wave" }, during, el("canvas"), says);
  }

  #drawWave() {
    const canvas = this.#lanes?.querySelector(".wave canvas");
    if (!canvas || !canvas.clientWidth) return;
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
    const peaks = this.#wave?.peaks;
    if (!peaks?.length) return;
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const [from_s, to_s] = this.#window();
    const loudest = Math.max(0.02, ...peaks.map(([low, high]) => Math.max(-low, high)));
    const per_s = peaks.length / this.#wave.duration_s;
    const [inside, outside] = [style.color, style.getPropertyValue("--silent")];
    for (let x = 0; x < canvas.width; x += 1) {
      const [at_s, next_s] = [x, x + 1].map((one) => from_s + ((to_s - from_s) * one) / canvas.width);
      const first = Math.floor(at_s * per_s);
      const some = peaks.slice(first, Math.max(first + 1, Math.ceil(next_s * per_s)));
      if (!some.length) continue;
      const low = Math.min(...some.map((one) => one[0])) / loudest;
      const high = Math.max(...some.map((one) => one[1])) / loudest;
      pen.fillStyle = at_s >= this.#event.start_s && at_s < this.#event.end_s ? inside : outside;
      const middle = canvas.height / 2;
      pen.fillRect(x, middle - high * middle * 0.94, 1, Math.max(ratio, (high - low) * middle * 0.94));
    }
  }

  #bar(one) {
    const own = one.event_num === this.#event.event_num;
    const title = `Event ${one.event_num}: ${one.label}, ${span(one.start_s, one.end_s)}`;
    const bar = el("div", { class: own ? "bar own" : "bar", title, data: { event: one.event_num } }, el("em", {}, `${one.event_num} ${one.label}`));
    if (own && this.writable) {
      for (const side of ["start", "end"]) {
        const handle = el("b", { class: `handle ${side}`, title: `Drag: the event’s ${side}` });
        handle.addEventListener("pointerdown", (event) => this.#moveBound(event, side));
        bar.append(handle);
      }
    }
    return this.#place(bar, one.start_s, one.end_s);
  }

  #color(track) {
    return this.#colors.get(`${this.#event.event_num}/${track.track_id}`);
  }

  #name(track) {
    const swatch = el("i", { class: "swatch" });
    swatch.style.background = this.#color(track);
    const chosen = track.track_id === this.#selected;
    const pick = () => this.dispatchEvent(new CustomEvent("track", { detail: track.track_id }));
    return el("button", { type: "button", class: chosen ? "name chosen" : "name", title: track.name, on: { click: pick } },
      swatch, el("span", {}, track.name), el("small", {}, track.says ?? (track.track_id === NEW ? "new" : `#${track.track_id}`)));
  }

  #trackLane(track) {
    const lane = el("div", { class: `lane track${track.track_id === this.#selected ? " chosen" : ""}${track.audible ? "" : " silent"}` });
    lane.style.setProperty("--color", this.#color(track));
    const step_s = track.step_s ?? stepOf(this.#event.frame_times_s);
    let start = 0;
    track.times_s.forEach((time_s, index) => {
      const next_s = track.times_s[index + 1];
      if (next_s !== undefined && next_s - time_s <= 1.5 * step_s) return;
      const end_s = Math.min(time_s + step_s / 2, Math.max(this.#event.end_s, time_s));
      lane.append(this.#place(el("span"), track.times_s[start], end_s));
      start = index + 1;
    });
    for (const [time_s, box] of this.#keys(track.track_id)) {
      const key = el("u", { class: box ? "" : "gone", title: box ? `box at ${short(time_s)} s` : `not visible at ${short(time_s)} s` });
      key.style.left = `${100 * this.#part(time_s)}%`;
      lane.append(key);
    }
    return lane;
  }

  #placeHead() {
    if (!this.#head) return;
    const time_s = this.#player.playing ? this.#player.time_s : this.#player.aim_s;
    const part = this.#part(time_s);
    this.#head.hidden = part < 0 || part > 1;
    this.#head.style.left = `${100 * part}%`;
  }

  // --- pointer --------------------------------------------------------------------------------------------------------

  #time(event) {
    const place = this.#lanes.getBoundingClientRect();
    const [from_s, to_s] = this.#window();
    return from_s + (to_s - from_s) * Math.min(Math.max((event.clientX - place.left) / place.width, 0), 1);
  }

  #follow(event, moved, ended) {
    const lanes = this.#lanes;
    lanes.setPointerCapture(event.pointerId);
    const stop = new AbortController();
    lanes.addEventListener("pointermove", (one) => moved(this.#time(one)), { signal: stop.signal });
    for (const name of ["pointerup", "pointercancel"]) {
      lanes.addEventListener(name, (one) => { stop.abort(); ended(this.#time(one), name === "pointerup"); }, { signal: stop.signal });
    }
  }

  #scrub(event) {
    if (event.button !== 0) return;
    const other = event.target.closest(".bar:not(.own)");
    if (other) {
      this.dispatchEvent(new CustomEvent("event", { detail: Number(other.dataset.event) }));
      return;
    }
    const seek = (time_s) => this.dispatchEvent(new CustomEvent("seek", { detail: time_s }));
    seek(this.#time(event));
    this.#follow(event, seek, () => {});
  }

  #moveBound(event, side) {
    event.stopPropagation();
    event.preventDefault();
    const bar = event.target.closest(".bar");
    const { start_s, end_s } = this.#event;
    const bounds = (time_s) => {
      const rounded_s = Math.round(time_s * 100) / 100;
      return side === "start" ? [Math.min(rounded_s, end_s - 0.1), end_s] : [start_s, Math.max(rounded_s, start_s + 0.1)];
    };
    this.#follow(event,
      (time_s) => { this.#place(bar, ...bounds(time_s)); this.dispatchEvent(new CustomEvent("seek", { detail: time_s })); },
      (time_s, done) => {
        if (done) this.dispatchEvent(new CustomEvent("bounds", { detail: bounds(time_s) }));
        else this.#build();
      });
  }
}
