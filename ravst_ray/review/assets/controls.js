// The player's buttons and clock, and the keys that do the same.

import { byId, clock, el, fill } from "./dom.js";

const RATES = [0.25, 0.5, 1, 1.5, 2];

export class Controls {
  #root;
  #player;
  #timeline;
  #shown;
  #step;
  #looping = false;
  #rate = 1;
  #clock = el("output", { class: "clock" });

  /** `shown()` gives {duration_s, span: [start_s, end_s] to loop} of what is shown, or null; `step(direction)` goes a picture on. */
  constructor(root, player, timeline, shown, step = (direction) => player.step(direction)) {
    this.#root = root;
    this.#player = player;
    this.#timeline = timeline;
    this.#shown = shown;
    this.#step = step;
    player.addEventListener("time", () => this.#showTime());
    player.addEventListener("state", () => this.show());
  }

  /** After something else is shown. */
  show() {
    const button = (text, title, run, pressed = null) =>
      el("button", { type: "button", title, "aria-label": title, "aria-pressed": pressed === null ? null : String(pressed), on: { click: run } }, text);
    this.#player.loop = this.#looping ? (this.#shown()?.span ?? null) : null;
    fill(this.#root,
      button("◂", "A picture back (,)", () => this.#step(-1)),
      el("button", { type: "button", class: "play", title: "Play or pause (space)", on: { click: () => this.#player.toggle() } }, this.#player.playing ? "Pause" : "Play"),
      button("▸", "A picture on (.)", () => this.#step(1)),
      this.#clock,
      el("span", { class: "gap" }),
      button(`${this.#rate} ×`, "Speed (< and >)", () => this.#setRate(this.#rate >= 2 ? -4 : 1)),
      button("Loop", "Play the event again and again (l)", () => this.#toggleLoop(), this.#looping),
      button("Zoom", "Show the event’s surroundings alone (z)", () => this.#zoom(), this.#timeline.close),
      button("Mute", "No sound (m)", () => this.#mute(), this.#player.muted));
    this.#showTime();
  }

  #showTime() {
    const { playing, ready, time_s, aim_s } = this.#player;
    const shown = this.#shown();
    byId("stage").dataset.shown = ready ? time_s.toFixed(3) : "";
    this.#clock.textContent = shown ? `${clock(playing ? time_s : aim_s)} / ${clock(shown.duration_s, 1)}` : "";
  }

  #toggleLoop() {
    this.#looping = !this.#looping;
    this.show();
  }

  #setRate(change) {
    this.#rate = RATES[Math.min(Math.max(0, RATES.indexOf(this.#rate) + change), RATES.length - 1)];
    this.#player.rate = this.#rate;
    this.show();
  }

  #zoom() {
    if (!this.#shown()) return;
    this.#timeline.zoom();
    this.show();
  }

  #mute() {
    this.#player.muted = !this.#player.muted;
  }

  /** The keys, as `listenToKeys` wants them. */
  keys() {
    return [
      [[" "], "play or pause", () => this.#player.toggle()],
      [[",", "."], "a picture back, on", (key) => this.#step(key.key === "," ? -1 : 1)],
      [["Home"], "the event’s start", () => this.#shown() && this.#player.seek(this.#shown().span[0])],
      [["<", ">"], "slower, faster", (key) => this.#setRate(key.key === "<" ? -1 : 1)],
      [["l"], "play the event again and again", () => this.#toggleLoop()],
      [["z"], "the whole video, or the event alone", () => this.#zoom()],
      [["m"], "no sound", () => this.#mute()],
    ];
  }
}
