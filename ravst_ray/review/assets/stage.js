// The stage: a video's file with what is read from it, and what both pages do with windows and dialogs.

import { address, get } from "./api.js";
import { byId } from "./dom.js";
import { stageSays, trouble } from "./says.js";

const KEPT = 40; // answers about the last few videos

/** Events: "file" (`detail`: what `/api/timeline` says of the video that was opened). */
export class Stage extends EventTarget {
  #player;
  #timeline;
  #extras = new Map(); // address -> promise of an answer
  #turn = 0; // counts what was opened, so that a late answer of the one before is dropped

  constructor(player, timeline) {
    super();
    this.#player = player;
    this.#timeline = timeline;
    player.addEventListener("trouble", ({ detail }) => trouble(detail));
  }

  /** Another video, standing at a time: its file begins to load while its rows do. */
  open(videoId, time_s) {
    this.#turn += 1;
    this.#timeline.setWave(null);
    trouble(null);
    stageSays(null);
    this.#player.open(videoId, time_s);
  }

  #fit(video) {
    byId("stage").style.setProperty("--ratio", video.width && video.height ? video.width / video.height : 16 / 9);
    this.#player.fps = video.fps || 25;
  }

  /** What stands in the file of the video that was opened; video: {found, why_not, width, height, fps}, the last three if known. */
  read(videoId, video) {
    this.#fit(video);
    if (!video.found) {
      this.#player.close();
      trouble(null);
      stageSays(video.why_not ?? "The video’s file is missing.");
      this.#timeline.setWave({ peaks: null, why_not: "the file is missing" });
      return;
    }
    const turn = this.#turn;
    this.#extra("/api/timeline", videoId).then((found) => {
      if (turn !== this.#turn) return undefined;
      if (found.failed) return stageSays(found.failed);
      if (!video.width) this.#fit(found);
      this.#player.setTimeline(found);
      return this.dispatchEvent(new CustomEvent("file", { detail: found }));
    });
    this.#extra("/api/waveform", videoId).then((found) => {
      if (turn === this.#turn) this.#timeline.setWave(found.failed ? { peaks: null, why_not: found.failed } : found);
    });
  }

  /** None any more. */
  close() {
    this.#turn += 1;
    this.#player.close();
  }

  /** What the next video needs, while this one is looked at. */
  preload(videoId) {
    this.#extra("/api/timeline", videoId);
    this.#extra("/api/waveform", videoId);
  }

  /** Asked for once. */
  #extra(path, videoId) {
    const key = address(path, { video_id: videoId });
    if (!this.#extras.has(key)) {
      this.#extras.set(key, get(path, { video_id: videoId }).catch((error) => ({ failed: error.message })));
      if (this.#extras.size > KEPT) this.#extras.delete(this.#extras.keys().next().value);
    }
    return this.#extras.get(key);
  }
}

/** The list at the side of a narrow window. */
export function drawer(open) {
  document.body.classList.toggle("drawer", open);
  byId("open-queue").setAttribute("aria-expanded", String(open));
}

export function listenToWindows() {
  window.addEventListener("hashchange", () => window.location.reload()); // a link to another row
  byId("open-queue").addEventListener("click", () => drawer(!document.body.classList.contains("drawer")));
  byId("shade").addEventListener("click", () => drawer(false));
  byId("open-keys").addEventListener("click", () => byId("keys").showModal());
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (press) => press.target === dialog && dialog.close());
  }
}
