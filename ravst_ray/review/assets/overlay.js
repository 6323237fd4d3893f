// Boxes over the picture: drawn at the time of the shown picture, and moved by pointer or keys when the video stands.

import { NEW } from "./drafts.js";
import { boxAt, dragged, drawn, grip, inkOn, nearest, stepOf } from "./geometry.js";

const REACH_PX = 7; // of the screen, around a box's edge
const NEAR_S = 0.5; // of a frame's places
const MOVED_PX = 3; // a shorter way is a click

/** Events: "select" (`detail`: a track id or null), "tap" (beside all boxes). */
export class Overlay extends EventTarget {
  #canvas;
  #player;
  #drafts;
  #event = null; // as it is shown, with drafts
  #size = [1, 1]; // of the displayed picture, pixels
  #colors = new Map();
  #selected = null;
  #answer = null; // [[time_s, box], …] of a hovered answer
  #drag = null;
  writable = false;

  constructor(canvas, player, drafts) {
    super();
    this.#canvas = canvas;
    this.#player = player;
    this.#drafts = drafts;
    new ResizeObserver(() => this.draw()).observe(canvas);
    player.addEventListener("time", () => this.draw());
    player.addEventListener("state", () => this.draw());
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", () => (this.#drag = null));
  }

  /** The event to draw, as it is with drafts. */
  show(event, video, colors) {
    this.#event = event;
    this.#size = [video.width, video.height];
    this.#colors = colors;
    this.draw();
  }

  clear() {
    this.#event = this.#answer = this.#drag = null;
    this.draw();
  }

  get selected() {
    return this.#selected;
  }

  select(trackId) {
    this.#selected = trackId;
    this.draw();
  }

  /** Boxes of an answer, [[time_s, box], …]; null: none. */
  answer(where) {
    this.#answer = where;
    this.draw();
  }

  #box(track, time_s) {
    return boxAt(track.times_s, track.boxes_xyxy_px, time_s, track.step_s ?? stepOf(this.#event.frame_times_s));
  }

  #track() {
    return this.#event?.tracks.find((track) => track.track_id === this.#selected) ?? null;
  }

  /** The time of the grid at which boxes are changed now. */
  get key_s() {
    return this.#event && nearest(this.#event.frame_times_s, this.#player.aim_s);
  }

  // --- drawing --------------------------------------------------------------------------------------------------------

  draw() {
    const canvas = this.#canvas;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (!this.#event || !width || !height || !this.#player.ready) return;
    const time_s = this.#drag ? this.#drag.time_s : this.#player.time_s;
    const scale = [width / this.#size[0], height / this.#size[1]];
    const placed = [];
    for (const track of this.#event.tracks) {
      const box = this.#box(track, time_s);
      if (box) placed.push([track, box.map((value, side) => value * scale[side % 2])]);
    }
    for (const [track, box] of placed) this.#drawTrack(pen, track, box, ratio);
    const taken = [];
    for (const [track, box] of placed) this.#drawName(pen, track, box, ratio, width, height, taken);
    for (const graph of this.#event.graphs ?? []) this.#drawDots(pen, graph, time_s, ratio, width, height);
    if (this.#answer) this.#drawAnswer(pen, time_s, scale, ratio);
  }

  #drawTrack(pen, track, [x1, y1, x2, y2], ratio) {
    const selected = track.track_id === this.#selected;
    pen.setLineDash([]);
    if (!track.bare) { // else dashes leave a box visible that lies under them
      pen.strokeStyle = "rgb(0 0 0 / 55%)";
      pen.lineWidth = (selected ? 5 : 4) * ratio;
      pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    pen.strokeStyle = this.#colors.get(`${this.#event.event_num}/${track.track_id}`);
    pen.lineWidth = (selected ? 3 : 2) * ratio;
    if (!track.audible) pen.setLineDash([6 * ratio, 4 * ratio]);
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    pen.setLineDash([]);
    if (!selected || !this.writable || this.#player.playing) return;
    const half = 4 * ratio;
    pen.fillStyle = "#ffffff";
    pen.strokeStyle = "#000000";
    pen.lineWidth = ratio;
    for (const x of [x1, (x1 + x2) / 2, x2]) {
      for (const y of [y1, (y1 + y2) / 2, y2]) {
        if (x === (x1 + x2) / 2 && y === (y1 + y2) / 2) continue;
        pen.fillRect(x - half, y - half, 2 * half, 2 * half);
        pen.strokeRect(x - half, y - half, 2 * half, 2 * half);
      }
    }
  }

  /** Over the box, or `track.below` it, clear of the names in `taken`. */
  #drawName(pen, track, [x1, y1, , y2], ratio, width, height, taken) {
    const color = this.#colors.get(`${this.#event.event_num}/${track.track_id}`);
    pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    const name = track.name.length > 40 ? `${track.name.slice(0, 39)}…` : track.name;
    const text = `${name} ${track.says ?? `${track.track_id === NEW ? "(new)" : `#${track.track_id}`}${track.audible ? " ♪" : ""}`}`;
    const [wide, high] = [pen.measureText(text).width + 10 * ratio, 18 * ratio];
    const x = Math.max(0, Math.min(x1 - ratio, width - wide));
    const over = y1 - high >= 0 ? y1 - high : y1;
    let y = track.below ? Math.min(y2, height - high) : over;
    const meets = (one) => x < one.x + one.wide && one.x < x + wide && y < one.y + high && one.y < y + high;
    while (track.below && y + 2 * high <= height && taken.some(meets)) y += high;
    taken.push({ x, y, wide });
    pen.fillStyle = color;
    pen.fillRect(x, y, wide, high);
    pen.fillStyle = inkOn(color);
    pen.textBaseline = "middle";
    pen.fillText(text, x + 5 * ratio, y + high / 2 + ratio / 2);
  }

  /** The places of the frame that is nearest, if it is near: {color, hollow, frames: [{time_s, dots: [{label, x, y}]}]}, shares of the picture. */
  #drawDots(pen, { color, hollow, frames }, time_s, ratio, width, height) {
    const near_s = nearest(frames.map((frame) => frame.time_s), time_s);
    if (near_s === null || Math.abs(near_s - time_s) > NEAR_S) return;
    pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    for (const { label, x, y } of frames.find((frame) => frame.time_s === near_s).dots) {
      const [left, top] = [x * width, y * height];
      pen.beginPath();
      pen.arc(left, top, (hollow ? 8 : 5) * ratio, 0, 2 * Math.PI);
      pen.lineWidth = 3 * ratio;
      pen.strokeStyle = pen.fillStyle = color;
      if (hollow) pen.stroke();
      else pen.fill();
      pen.strokeStyle = "rgb(0 0 0 / 70%)";
      pen.textAlign = x > 0.8 ? "right" : "left";
      const text = [label.slice(0, 40), left + (x > 0.8 ? -11 : 11) * ratio, top + (hollow ? 8 : -8) * ratio];
      pen.strokeText(...text);
      pen.fillText(...text);
    }
    pen.textAlign = "left";
  }

  #drawAnswer(pen, time_s, scale, ratio) {
    const at = (one_s) => this.#answer.filter(([key_s]) => Math.abs(key_s - one_s) < 1e-6).map(([, box]) => box);
    const near_s = nearest(this.#answer.map(([key_s]) => key_s), time_s);
    for (const box of near_s === null ? [] : at(near_s)) {
      const [x1, y1, x2, y2] = box.map((value, side) => value * scale[side % 2]);
      for (const [color, dash] of [["#000000", []], ["#ffffff", [5 * ratio, 5 * ratio]]]) {
        pen.setLineDash(dash);
        pen.strokeStyle = color;
        pen.lineWidth = 2 * ratio;
        pen.strokeRect(x1 - 3 * ratio, y1 - 3 * ratio, x2 - x1 + 6 * ratio, y2 - y1 + 6 * ratio);
      }
    }
    pen.setLineDash([]);
  }

  // --- changing -------------------------------------------------------------------------------------------------------

  #point(event) {
    const place = this.#canvas.getBoundingClientRect();
    const scale = this.#size[0] / place.width;
    return [(event.clientX - place.left) * scale, (event.clientY - place.top) * scale, scale];
  }

  /** [track, box, sides] under a point: the selected one first, else the smallest. */
  #under(x, y, reach) {
    const found = (this.#event?.tracks ?? [])
      .map((track) => [track, this.#box(track, this.#player.time_s)])
      .filter(([, box]) => box && grip(box, x, y, reach) !== null)
      .sort(([a, one], [b, two]) => {
        const chosen = (b.track_id === this.#selected) - (a.track_id === this.#selected);
        return chosen || (one[2] - one[0]) * (one[3] - one[1]) - (two[2] - two[0]) * (two[3] - two[1]);
      });
    return found.length ? [...found[0], grip(found[0][1], x, y, reach)] : null;
  }

  #down(event) {
    if (event.button !== 0 || !this.#event) return;
    const [x, y, scale] = this.#point(event);
    const under = this.#under(x, y, REACH_PX * scale * (event.pointerType === "touch" ? 2 : 1));
    const track = this.#track();
    const editable = this.writable && !this.#player.playing && this.#event.frame_times_s.length > 0;
    this.#canvas.setPointerCapture(event.pointerId);
    if (editable && track && !this.#box(track, this.key_s)) {
      this.#begin(track, null, x, y, [x, y, x, y], under?.[0].track_id ?? null); // a box is drawn where it has none
    } else if (under) {
      this.#player.pause();
      const wasSelected = under[0].track_id === this.#selected;
      if (!wasSelected) this.dispatchEvent(new CustomEvent("select", { detail: under[0].track_id }));
      if (editable) this.#begin(under[0], wasSelected ? under[2] : "", x, y);
    } else this.#drag = { tap: true, x, y };
  }

  /** Start to change a box at the nearest time of the grid, whose picture is shown for it. Without sides it is drawn;
   *  `else_` is what a mere click chooses then. */
  #begin(track, sides, x, y, box = null, else_ = undefined) {
    const time_s = this.key_s;
    box ??= this.#box(track, time_s);
    if (!box) return;
    this.#drag = { trackId: track.track_id, sides, x, y, box, time_s, moved: false, else_ };
    if (Math.abs(time_s - this.#player.aim_s) > 1e-6) this.#player.seek(time_s);
  }

  #move(event) {
    const [x, y, scale] = this.#point(event);
    const drag = this.#drag;
    if (!drag) return this.#hint(x, y, scale);
    if (drag.tap) return undefined;
    const [dx, dy] = [x - drag.x, y - drag.y];
    drag.moved ||= Math.hypot(dx, dy) > MOVED_PX * scale;
    if (!drag.moved) return undefined;
    const box = drag.sides === null ? drawn(drag.x, drag.y, x, y, ...this.#size) : dragged(drag.box, drag.sides, dx, dy, ...this.#size);
    return this.#drafts.setKey(drag.trackId, drag.time_s, box);
  }

  #up() {
    const drag = this.#drag;
    this.#drag = null;
    if (drag?.tap) this.dispatchEvent(new Event("tap"));
    else if (drag && !drag.moved && drag.else_ !== undefined) this.dispatchEvent(new CustomEvent("select", { detail: drag.else_ }));
    this.draw();
  }

  #hint(x, y, scale) {
    const under = this.#under(x, y, REACH_PX * scale);
    const sides = under && under[0].track_id === this.#selected && this.writable && !this.#player.playing ? under[2] : null;
    const cursors = { l: "ew-resize", r: "ew-resize", t: "ns-resize", b: "ns-resize", lt: "nwse-resize", rb: "nwse-resize", rt: "nesw-resize", lb: "nesw-resize" };
    this.#canvas.style.cursor = sides === null ? (under ? "pointer" : "") : (cursors[sides] ?? "move");
  }

  /** Move the selected box, or its lower right corner, by pixels of the picture. */
  nudge(dx, dy, resize) {
    const track = this.#track();
    const box = track && this.key_s !== null && this.#box(track, this.key_s);
    if (!box || !this.writable) return;
    this.#player.seek(this.key_s);
    this.#drafts.setKey(track.track_id, this.key_s, dragged(box, resize ? "rb" : "", dx, dy, ...this.#size));
  }

  /** The selected object isn't visible at the shown time. */
  hide() {
    const track = this.#track();
    if (track && this.key_s !== null && this.writable) this.#drafts.setKey(track.track_id, this.key_s, null);
  }
}
