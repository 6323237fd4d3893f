// A video as a clock of pictures: the browser's own player, or decoded pictures from the server where it can't play the file.

import { address } from "./api.js";
import { frameAt } from "./geometry.js";

const SIDE_PX = 960; // of decoded pictures
const LATE_MS = 80; // after a seek its picture is on the screen

/** Events: "time" when another picture is shown or asked for, "state" (plays, stands), "trouble" (`detail`: a sentence). */
export class Player extends EventTarget {
  time_s = 0; // of the shown picture
  aim_s = 0; // of the picture that was asked for last
  fps = 25; // as long as the times of the pictures aren't known
  ready = false; // a picture of this video is shown
  loop = null; // [start_s, end_s] to play again and again, or null
  #video;
  #picture;
  #item = null;
  #timeline = null;
  #decoded = false; // pictures from the server
  #playing = false; // of decoded pictures
  #waiting = false; // for a decoded picture
  #again = false; // a seek was tried twice
  #watching = 0; // the request to be told of the next picture
  #first_s = null; // the player's own time of the first picture: some count from the file's start, some don't

  constructor(video, picture) {
    super();
    this.#video = video;
    this.#picture = picture;
    for (const name of ["play", "pause", "ended"]) video.addEventListener(name, () => this.#emit("state"));
    video.addEventListener("seeked", () => window.setTimeout(() => this.#checkSeek(), LATE_MS));
    video.addEventListener("error", () => this.#cannot("This browser can’t play the file."));
    video.addEventListener("loadedmetadata", () => {
      if (!video.videoWidth) this.#cannot("This browser can’t show the file’s pictures.");
      else if (!this.#tells) this.seek(this.aim_s);
      else window.setTimeout(() => this.#wake(), LATE_MS * 10);
    });
    if (!this.#tells) {
      const look = () => {
        if (video.readyState >= 2 && !video.seeking) this.#shown(video.currentTime);
        requestAnimationFrame(look);
      };
      look();
    }
  }

  /** Whether the browser tells of each picture when it is shown. */
  get #tells() {
    return "requestVideoFrameCallback" in this.#video;
  }

  get playing() {
    return this.#decoded ? this.#playing : !this.#video.paused && !this.#video.ended;
  }

  get decoded() {
    return this.#decoded;
  }

  /** Another video, standing at a time. Its times of pictures come later. */
  open(videoId, time_s) {
    this.#item = videoId;
    this.#timeline = null;
    this.#decoded = this.#playing = this.#waiting = this.ready = false;
    this.#picture.hidden = true;
    this.#video.hidden = false;
    this.#first_s = null;
    this.time_s = this.aim_s = time_s;
    if (this.#tells) this.#video.cancelVideoFrameCallback(this.#watching); // of the video before
    this.#video.src = address("/api/video", { video_id: videoId });
    if (this.#tells) this.#watch();
  }

  #watch() {
    this.#watching = this.#video.requestVideoFrameCallback((_, picture) => {
      this.#watch();
      this.#shown(picture.mediaTime);
    });
  }

  close() {
    this.#item = this.#timeline = null;
    this.#video.removeAttribute("src");
    this.#video.load();
    this.#picture.hidden = true;
    this.ready = false;
  }

  /** The times of the pictures are known. */
  setTimeline(timeline) {
    this.#timeline = timeline;
    if (this.#decoded) this.#say();
    this.seek(this.aim_s);
  }

  /** What the player's time is ahead of the video's. */
  #offset() {
    if (this.#first_s !== null) return this.#first_s - (this.#timeline?.starts_s[0] ?? 0);
    return this.#timeline?.player_offset_s ?? 0;
  }

  /** A time within a picture, away from both its edges: players round. */
  #inside(time_s) {
    const starts_s = this.#timeline?.starts_s;
    if (!starts_s?.length) return time_s + 0.001;
    const index = frameAt(starts_s, time_s);
    return (starts_s[index] + (starts_s[index + 1] ?? this.#timeline.end_s)) / 2;
  }

  #shown(media_s) {
    if (this.#item === null || this.#decoded) return;
    if (this.#tells && this.#first_s === null) {
      this.#first_s = media_s;
      if (this.aim_s > 0) return this.seek(this.aim_s);
    }
    this.#arrived(media_s - this.#offset());
  }

  #arrived(time_s) {
    const starts_s = this.#timeline?.starts_s;
    this.time_s = starts_s?.length ? starts_s[frameAt(starts_s, time_s)] : Math.max(0, time_s);
    if (this.playing) this.aim_s = this.time_s;
    this.ready = true;
    this.#emit("time");
    if (this.playing && this.loop && (this.time_s >= this.loop[1] || this.time_s < this.loop[0] - 0.05)) this.seek(this.loop[0]);
  }

  /** Show the picture of a time. */
  seek(time_s) {
    const end_s = this.#timeline?.end_s ?? (Number.isFinite(this.#video.duration) ? this.#video.duration : Infinity);
    this.aim_s = Math.min(Math.max(0, time_s), Math.max(0, end_s - 0.001));
    this.#again = false;
    if (this.#decoded) this.#decode();
    else if (this.#first_s !== null || (this.#video.readyState >= 1 && !this.#tells)) this.#video.currentTime = this.#inside(this.aim_s) + this.#offset();
    this.#emit("time");
  }

  /** Where pictures last differently long, players take the one before for longer than it lasts: aim at the very end. */
  #checkSeek() {
    const { starts_s, end_s } = this.#timeline ?? {};
    if (!starts_s?.length || this.#decoded || this.playing || this.#video.seeking || this.#again) return;
    const wanted = frameAt(starts_s, this.aim_s);
    if (frameAt(starts_s, this.time_s) >= wanted) return;
    this.#again = true;
    this.#video.currentTime = (starts_s[wanted + 1] ?? end_s) - 0.001 + this.#offset();
  }

  /** Some browsers show no picture before they must. */
  #wake() {
    if (this.#first_s === null && !this.#decoded && this.#item !== null) this.#video.currentTime = 0.001;
  }

  /** Stand, some pictures before or behind the one that was asked for last. */
  step(pictures) {
    this.pause();
    const starts_s = this.#timeline?.starts_s;
    if (!starts_s?.length) return this.seek(this.aim_s + pictures / this.fps);
    const index = Math.min(Math.max(0, frameAt(starts_s, this.aim_s) + pictures), starts_s.length - 1);
    return this.seek(starts_s[index]);
  }

  play() {
    if (this.loop && (this.aim_s < this.loop[0] || this.aim_s >= this.loop[1] - 0.05)) this.seek(this.loop[0]);
    if (this.#decoded) {
      this.#playing = true;
      this.#emit("state");
      this.#go(this.aim_s, performance.now());
    } else this.#video.play().catch(() => this.#emit("state"));
  }

  pause() {
    if (this.#decoded) {
      this.#playing = false;
      this.#emit("state");
    } else this.#video.pause();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  get muted() {
    return this.#video.muted;
  }

  set muted(value) {
    this.#video.muted = value;
    this.#emit("state");
  }

  set rate(value) {
    this.#video.playbackRate = this.#video.defaultPlaybackRate = value;
  }

  // --- decoded pictures -----------------------------------------------------------------------------------------------

  #cannot(why) {
    if (this.#item === null || this.#decoded || !this.#video.hasAttribute("src")) return;
    this.#decoded = true;
    this.#video.hidden = true;
    this.#video.removeAttribute("src");
    this.#video.load();
    this.#picture.hidden = false;
    this.#say(why);
    this.#decode();
  }

  #say(why = "This browser can’t play the file.") {
    const trouble = `${this.#timeline?.why_not ?? why} Decoded pictures are shown instead, without sound.`;
    this.dispatchEvent(new CustomEvent("trouble", { detail: trouble }));
  }

  async #decode() {
    if (this.#waiting) return;
    this.#waiting = true;
    const [videoId, aim_s] = [this.#item, this.aim_s];
    const picture = new Image();
    picture.src = address("/api/frame", { video_id: videoId, time_s: this.#inside(aim_s), side: SIDE_PX });
    const decoded = await picture.decode().then(() => true, () => false);
    if (videoId !== this.#item || !this.#decoded) return;
    this.#waiting = false;
    if (decoded) {
      this.#picture.src = picture.src;
      this.#arrived(aim_s);
    } else this.dispatchEvent(new CustomEvent("trouble", { detail: "The server can’t decode this picture of the file." }));
    if (decoded && this.aim_s !== aim_s) this.#decode();
  }

  /** Keep up with the clock: as many pictures as come in time. */
  #go(from_s, since_ms) {
    if (!this.#playing || !this.#decoded) return;
    const time_s = from_s + (performance.now() - since_ms) / 1000;
    const end_s = this.loop?.[1] ?? this.#timeline?.end_s ?? Infinity;
    if (time_s >= end_s && !this.loop) return this.pause();
    if (time_s >= end_s) return this.#restart();
    this.seek(time_s);
    requestAnimationFrame(() => this.#go(from_s, since_ms));
  }

  #restart() {
    this.seek(this.loop[0]);
    this.#go(this.loop[0], performance.now());
  }

  #emit(name) {
    this.dispatchEvent(new Event(name));
  }
}
