// The review page: a queue of rows, the video of one of them, and verdicts on it.

import { address, get, post } from "./api.js";
import { byId, clock, count, el, fill } from "./dom.js";
import { Drafts, NEW } from "./drafts.js";
import { showFigures } from "./figures.js";
import { buildFilters, filtersOn, fromAddress, toAddress } from "./filters.js";
import { trackColors } from "./geometry.js";
import { listenToKeys } from "./keys.js";
import { Overlay } from "./overlay.js";
import { did, showHead, showHistory, showObjects, showQuestions } from "./panels.js";
import { Player } from "./player.js";
import { Queue, sectionButtons } from "./queue.js";
import { Timeline } from "./timeline.js";

const POLL_MS = 10_000; // for rows of a run that goes on
const RATES = [0.25, 0.5, 1, 1.5, 2];

const drafts = new Drafts();
const player = new Player(byId("video"), byId("picture"));
const overlay = new Overlay(byId("overlay"), player, drafts);
const timeline = new Timeline(byId("timeline"), player);
const queue = new Queue(byId("rows"));
const extras = new Map(); // address -> promise of an answer; of the last few videos

let session = null;
let filters = {};
let item = null; // as the server gave it
let eventNum = null;
let opening = 0; // counts what was opened, so that a late answer of the one before is dropped
let sending = false;
let everywhere = false;
let shownMs = 0; // how long the item has been looked at, before `sinceMs`
let sinceMs = null;
const done = []; // what this page did, to take back: {video_id, event_num, version, annotation_id}

const event = () => item?.events.find((one) => one.event_num === eventNum) ?? null;
const rowId = () => item?.annotation_id ?? null;

// --- what is said -------------------------------------------------------------------------------------------------------

function say(text, kind = "") {
  const status = byId("status");
  status.className = kind;
  status.textContent = text;
}

/** A sentence above everything, until it is closed or `key` is said anew. */
function banner(key, text, closable = true) {
  byId("banners").querySelector(`[data-key="${key}"]`)?.remove();
  if (text === null) return;
  const close = el("button", { type: "button", on: { click: () => line.remove() } }, "Close");
  const line = el("div", { class: "banner", data: { key } }, el("p", {}, text), closable ? close : null);
  byId("banners").append(line);
}

// --- the queue ----------------------------------------------------------------------------------------------------------

function showFilters() {
  buildFilters(byId("filter-form"), session, filters, setFilters);
  byId("filters-on").textContent = filtersOn(filters) ? `(${filtersOn(filters)})` : "";
}

async function setFilters(changed) {
  filters = changed;
  toAddress(filters, item && { video_id: item.video_id, event_num: eventNum });
  showFilters();
  await queue.load({ ...filters, reviewer: reviewer() });
}

function showSections() {
  const choose = (section) => {
    const { section: _, ...rest } = filters;
    setFilters(section ? { ...rest, section } : rest).then(openFirst);
  };
  sectionButtons(byId("sections"), queue.sections, queue.rows, filters.section, choose);
  const left = Object.values(queue.sections).reduce((sum, one) => sum + one.left, 0);
  byId("progress").textContent = `${(queue.rows - left).toLocaleString("en")} of ${count(queue.rows, "row")} reviewed`;
}

const openFirst = () => (queue.items[0] ? open(queue.items[0].video_id, queue.items[0].event_num) : openNothing());

async function go(places) {
  const beside = await queue.beside(rowId(), places);
  if (beside) return open(beside.video_id, beside.event_num);
  return say(places > 0 ? "That was the last row of the queue." : "This is the first row of the queue.");
}

function drawer(open_) {
  document.body.classList.toggle("drawer", open_);
  byId("open-queue").setAttribute("aria-expanded", String(open_));
}

/** A run goes on, or others review: new numbers; the list stays where it is. */
async function poll() {
  const before = queue.rows;
  const page = await get("/api/queue", { ...filters, reviewer: reviewer(), limit: 1 }).catch(() => null);
  if (!page) return;
  queue.sections = page.sections;
  queue.rows = page.rows;
  showSections();
  if (page.rows > before) banner("grown", `${count(page.rows - before, "new row")} since the list was made: reload the page to see all of them.`);
}

// --- an item ------------------------------------------------------------------------------------------------------------

/** What of a video is read from its file, asked for once. */
function extra(path, videoId) {
  const key = address(path, { video_id: videoId });
  if (!extras.has(key)) {
    extras.set(key, get(path, { video_id: videoId }).catch((error) => ({ failed: error.message })));
    if (extras.size > 40) extras.delete(extras.keys().next().value);
  }
  return extras.get(key);
}

function openNothing() {
  item = eventNum = null;
  player.close();
  overlay.clear();
  byId("item").hidden = true;
  byId("nothing").hidden = false;
  fill(byId("nothing"), session.rows ? "No row is like that: change the filter." : "This output has no rows yet.");
}

async function open(videoId, number) {
  if (drafts.any) return say("Save (S) or discard (Esc) the changes first.", "bad");
  if (item?.video_id === videoId && item.events.some((one) => one.event_num === number) && eventNum !== number) player.pause();
  const turn = ++opening;
  const sameVideo = item?.video_id === videoId;
  drawer(false);
  byId("nothing").hidden = true;
  const known = queue.items.find((one) => one.video_id === videoId && one.event_num === number);
  if (!sameVideo) {
    overlay.clear();
    timeline.setWave(null);
    trouble(null);
    stageSays(null);
    player.open(videoId, known?.start_s ?? 0); // the file begins to load while the rows do
  }
  say("");
  banner("conflict", null);
  try {
    const found = await get("/api/item", { video_id: videoId, event_num: number });
    if (turn !== opening) return undefined;
    item = found;
  } catch (error) {
    if (turn === opening) banner("item", error.message);
    return undefined;
  }
  banner("item", null);
  eventNum = number;
  shownMs = 0;
  sinceMs = document.hidden ? null : performance.now();
  toAddress(filters, { video_id: videoId, event_num: number });
  queue.select(rowId());
  overlay.select(null);
  byId("item").hidden = false;
  byId("stage").style.setProperty("--ratio", item.video.width && item.video.height ? item.video.width / item.video.height : 16 / 9);
  show();
  player.fps = item.video.fps || 25;
  player.seek(event().start_s);
  if (!sameVideo) readFile(turn, videoId);
  else setLoop();
  preload();
  return undefined;
}

async function readFile(turn, videoId) {
  if (!item.video.found) {
    player.close();
    trouble(null);
    stageSays(item.video.why_not ?? "The video’s file is missing.");
    timeline.setWave({ peaks: null, why_not: "the file is missing" });
    return;
  }
  const [pictures, wave] = [extra("/api/timeline", videoId), extra("/api/waveform", videoId)];
  pictures.then((found) => {
    if (turn !== opening) return;
    if (found.failed) stageSays(found.failed);
    else player.setTimeline(found);
  });
  wave.then((found) => turn === opening && timeline.setWave(found.failed ? { peaks: null, why_not: found.failed } : found));
}

/** What the next row's video needs, while this one is looked at. */
async function preload() {
  const next = await queue.beside(rowId(), 1).catch(() => null);
  if (next && next.video_id !== item?.video_id) {
    extra("/api/timeline", next.video_id);
    extra("/api/waveform", next.video_id);
  }
}

function trouble(text) {
  byId("player-says").hidden = text === null;
  byId("player-says").textContent = text ?? "";
}

function stageSays(text) {
  byId("stage-says").hidden = text === null;
  byId("stage-says").textContent = text ?? "";
}

function show() {
  const one = event();
  const shown = drafts.shown(one);
  const colors = trackColors(item.events.map((other) => (other === one ? shown : other)));
  const { writable } = session;
  if (!shown.tracks.some((track) => track.track_id === overlay.selected)) overlay.select(null);
  overlay.writable = timeline.writable = writable;
  overlay.show(shown, item.video, colors);
  timeline.show(item, shown, colors, (trackId) => drafts.keysOf(trackId), overlay.selected);
  showHead(byId("head"), item, shown, session.reasons);
  showObjects(byId("objects"), item, shown, { colors, selected: overlay.selected, writable, everywhere }, {
    edit: (edit) => send({ what: "edit", edit }),
    select,
    everywhere: (value) => { everywhere = value; show(); },
    add: (name) => { player.pause(); drafts.add(name); select(NEW); },
    split: (track) => send({ what: "edit", edit: { op: "split_track", track_id: track.track_id, at_s: player.aim_s } }),
  });
  showQuestions(byId("questions"), item, one, writable, {
    seek: (time_s) => { player.pause(); player.seek(time_s); },
    answer: (where) => overlay.answer(where),
    judge: (question, what) => send({ what, qa_id: question.qa_id }),
  });
  showHistory(byId("history"), item, one);
  showUnsaved();
  showVerdicts();
  setLoop();
}

function select(trackId) {
  overlay.select(trackId);
  show();
}

// --- verdicts -----------------------------------------------------------------------------------------------------------

const reviewer = () => byId("reviewer").value.trim() || null;

const seconds = () => (shownMs + (sinceMs === null ? 0 : performance.now() - sinceMs)) / 1000;

/** Send a verdict on the shown event; true when it is saved. */
async function send(verdict) {
  if (!item || sending || !session.writable) return false;
  const sent = item;
  const section = queue.items.find((one) => one.annotation_id === rowId())?.section ?? null;
  const place = { video_id: item.video_id, event_num: eventNum, on: item.version };
  return deliver(sent, () => post("/api/verdict", { qa_id: null, edit: null, reviewer: reviewer(), seconds: Math.round(10 * seconds()) / 10, section, ...place, ...verdict }), (found) => {
    done.push({ video_id: sent.video_id, event_num: place.event_num, version: found.version, annotation_id: sent.annotation_id });
    return did(found.history.at(-1) ?? { what: verdict.what });
  });
}

/** Post something and show how the item is then. `saved` gives what to say. */
async function deliver(sent, request, saved) {
  sending = true;
  say("saving …", "busy");
  showVerdicts();
  try {
    const { item: found } = await request();
    adopt(found);
    say(`saved: ${saved(found)}`, "good");
    return true;
  } catch (error) {
    if (error.status === 409 && error.item) {
      const last = error.item.history.filter((one) => one.event_num === error.item.event_num).at(-1);
      adopt(error.item);
      banner("conflict", last ? `${last.who} was faster: ${last.who} ${did(last)}. Nothing of yours was changed or saved; this is how the row is now.` : error.message);
      say("not saved", "bad");
    } else {
      say(error.status === 422 ? `not saved: ${error.message}` : "not saved", "bad");
      if (error.status !== 422) banner("failed", error.message);
    }
    return false;
  } finally {
    sending = false;
    if (item) showVerdicts();
  }
}

/** The server's new word on an item: shown if it still is the shown one. */
function adopt(found) {
  for (const one of found.events) {
    const mine = (entry) => entry.event_num === one.event_num && entry.state === "applied" && entry.what !== "undo";
    queue.update(`${found.video_id}/${one.event_num}`, {
      verdict: one.verdict, edited: one.edited, label: one.label, start_s: one.start_s, end_s: one.end_s, objects: one.objects.length,
      reviewers: [...new Set(found.history.filter(mine).map((entry) => entry.who))], version: one.version,
    });
  }
  banner("conflict", null);
  banner("failed", null);
  if (item?.video_id !== found.video_id || found.event_num !== eventNum) return;
  item = found;
  drafts.keepWhatFits(event());
  show();
}

async function judge(what) {
  if (!session.writable) return say(session.why_not ?? "This output can’t be written.", "bad");
  if (drafts.any) return say("Save (S) or discard (Esc) the changes first.", "bad");
  const before = rowId();
  if ((await send({ what })) && rowId() === before) {
    const text = byId("status").textContent;
    const next = await queue.beside(before, 1);
    if (next) await open(next.video_id, next.event_num);
    say(next ? text : `${text}. That was the last row of the queue.`, "good");
    poll();
  }
  return undefined;
}

async function undo() {
  if (sending || !session.writable) return;
  if (drafts.any) return discard();
  const last = done.pop() ?? (item?.can_undo ? { video_id: item.video_id, event_num: eventNum, version: item.version } : null);
  if (!last) return say("There is nothing to take back.");
  if (last.video_id !== item?.video_id || last.event_num !== eventNum) await open(last.video_id, last.event_num);
  // Where this page undid something later of the same event, the version has moved on with it.
  const on = item?.version ?? last.version;
  const { video_id, event_num } = last;
  await deliver(item, () => post("/api/undo", { video_id, event_num, on, reviewer: reviewer() }), () => "taken back");
  poll();
}

async function save() {
  if (!drafts.any || sending) return;
  for (const [edit, settled] of [...drafts.edits()]) {
    if (!(await send({ what: "edit", edit }))) return; // what isn't saved stays a draft
    settled();
  }
}

function discard() {
  if (drafts.any) {
    drafts.clear();
    say("discarded");
  } else if (overlay.selected !== null) select(null);
}

/** What isn't saved; else, of a chosen track, how it is changed. */
function showUnsaved() {
  const root = byId("unsaved");
  const chosen = session.writable && overlay.selected !== null;
  root.hidden = !drafts.any && !chosen;
  root.classList.toggle("dirty", drafts.any);
  const keys = (...names) => names.map((name) => [el("kbd", {}, name), " "]);
  if (drafts.any) {
    fill(root, el("p", {}, "Not saved: ", drafts.says()),
      el("button", { type: "button", class: "main", on: { click: save } }, "Save ", el("kbd", {}, "s")),
      el("button", { type: "button", on: { click: discard } }, "Discard ", el("kbd", {}, "esc")));
  } else if (chosen) {
    const track = overlay.selected;
    fill(root, el("p", { class: "hint" }, `Track ${track}: drag its box or edges · `, keys("←", "→", "↑", "↓"), "move it (",
      keys("shift"), "size) · ", keys(",", "."), "other times · ", keys("x"), "not visible · ", keys("e"), "next · ", keys("esc"), "none"));
  }
}

function showVerdicts() {
  const { writable, why_not: whyNot } = session;
  const button = (text, key, run, attributes = {}) =>
    el("button", { type: "button", on: { click: run }, ...attributes }, text, " ", el("kbd", {}, key));
  const off = !writable || sending;
  const verdict = event()?.verdict;
  fill(byId("verdicts"),
    button("Accept", "a", () => judge("accept"), { class: "accept", disabled: off, "aria-pressed": String(verdict === "accepted"), title: whyNot }),
    button("Reject", "r", () => judge("reject"), { class: "reject", disabled: off, "aria-pressed": String(verdict === "rejected"), title: whyNot }),
    button("Undo", "u", undo, { disabled: off || !(done.length || item?.can_undo), title: whyNot }),
    button("Edit", "e", edit, { disabled: off, title: whyNot }),
    el("span", { class: "gap" }),
    button("Previous", "p", () => go(-1)),
    button("Next", "n", () => go(1)));
}

// --- changing boxes and bounds ------------------------------------------------------------------------------------------

/** Choose the next track that is seen at the shown time, standing at the nearest time that has boxes. */
function edit() {
  const one = event();
  if (!one || !session.writable) return;
  if (!one.tracks.length) return say("This event has no tracks to edit.");
  player.pause();
  if (overlay.key_s !== null) player.seek(overlay.key_s);
  const index = one.tracks.findIndex((track) => track.track_id === overlay.selected);
  select(one.tracks[(index + 1) % one.tracks.length].track_id);
}

function arrow(dx, dy, key) {
  if (overlay.selected !== null) overlay.nudge(dx, dy, key.shiftKey);
  else if (dx) player.step(dx);
  else go(dy);
}

/** Another picture; while a track is chosen, the next time that has boxes. */
function step(direction) {
  const grid = overlay.selected !== null && session.writable ? event()?.frame_times_s ?? [] : [];
  if (!grid.length) return player.step(direction);
  player.pause();
  const at = grid.indexOf(overlay.key_s);
  return player.seek(grid[Math.min(Math.max(0, at + direction), grid.length - 1)]);
}

function bound(side) {
  if (!session.writable || !item) return;
  const { start_s, end_s } = drafts.shown(event());
  const time_s = Math.round(player.aim_s * 100) / 100;
  const bounds = side === "start" ? [time_s, end_s] : [start_s, time_s];
  if (bounds[1] - bounds[0] < 0.1) return say("An event starts before it ends.", "bad");
  drafts.setBounds(...bounds);
}

drafts.addEventListener("change", () => item && event() && show());

// --- the player's controls ----------------------------------------------------------------------------------------------

let looping = false;
let rate = 1;

const setLoop = () => (player.loop = looping && event() ? [event().start_s, event().end_s] : null);

function toggleLoop() {
  looping = !looping;
  setLoop();
  showControls();
}

function setRate(change) {
  rate = RATES[Math.min(Math.max(0, RATES.indexOf(rate) + change), RATES.length - 1)];
  player.rate = rate;
  showControls();
}

function zoom() {
  if (!item) return;
  timeline.zoom();
  showControls();
}

function mute() {
  player.muted = !player.muted;
}

const time = el("output", { class: "clock" });

function showTime() {
  byId("stage").dataset.shown = player.ready ? player.time_s.toFixed(3) : "";
  time.textContent = item ? `${clock(player.playing ? player.time_s : player.aim_s)} / ${clock(item.video.duration_s, 1)}` : "";
}

function showControls() {
  const button = (text, title, run, pressed = null) =>
    el("button", { type: "button", title, "aria-label": title, "aria-pressed": pressed === null ? null : String(pressed), on: { click: run } }, text);
  fill(byId("controls"),
    button("◂", "A picture back (,)", () => step(-1)),
    el("button", { type: "button", class: "play", title: "Play or pause (space)", on: { click: () => player.toggle() } }, player.playing ? "Pause" : "Play"),
    button("▸", "A picture on (.)", () => step(1)),
    time,
    el("span", { class: "gap" }),
    button(`${rate} ×`, "Speed (< and >)", () => setRate(rate >= 2 ? -4 : 1)),
    button("Loop", "Play the event again and again (l)", toggleLoop, looping),
    button("Zoom", "Show the event’s surroundings alone (z)", zoom, timeline.close),
    button("Mute", "No sound (m)", mute, player.muted));
}

player.addEventListener("time", showTime);
player.addEventListener("state", showControls);
player.addEventListener("trouble", ({ detail }) => trouble(detail));
overlay.addEventListener("select", ({ detail }) => select(detail));
overlay.addEventListener("tap", () => (overlay.selected === null || player.playing ? player.toggle() : select(null)));
timeline.addEventListener("seek", ({ detail }) => { player.pause(); player.seek(detail); });
timeline.addEventListener("event", ({ detail }) => openEvent(detail));
timeline.addEventListener("track", ({ detail }) => select(detail));
timeline.addEventListener("bounds", ({ detail }) => drafts.setBounds(...detail));

const openEvent = (number) => item && (number === eventNum ? player.seek(event().start_s) : open(item.video_id, number));

function nth(position) {
  const one = item?.events[position - 1];
  if (one) openEvent(one.event_num);
}

function besideEvent(places) {
  const index = item?.events.findIndex((one) => one.event_num === eventNum) ?? -1;
  if (item?.events[index + places]) openEvent(item.events[index + places].event_num);
}

// --- keys ---------------------------------------------------------------------------------------------------------------

const show_ = (dialog) => (dialog === "figures" ? showFigures(byId("figures")) : byId("keys").showModal());

listenToKeys([
  ["Verdicts", [
    [["a"], "accept, and go on", () => judge("accept")],
    [["r"], "reject, and go on", () => judge("reject")],
    [["u"], "take back what was said last", undo],
    [["n", "j"], "next row", () => go(1)],
    [["p", "k"], "previous row", () => go(-1)],
  ]],
  ["Video", [
    [[" "], "play or pause", () => player.toggle()],
    [[",", "."], "a picture back, on", (key) => step(key.key === "," ? -1 : 1)],
    [["ArrowLeft", "ArrowRight"], "the same; with a track chosen they move its box", (key) => arrow(key.key === "ArrowLeft" ? -1 : 1, 0, key)],
    [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "jump to an event of the video", (key) => nth(Number(key.key))],
    [["[", "]"], "the event before, behind", (key) => besideEvent(key.key === "[" ? -1 : 1)],
    [["Home"], "the event’s start", () => item && player.seek(event().start_s)],
    [["<", ">"], "slower, faster", (key) => setRate(key.key === "<" ? -1 : 1)],
    [["l"], "play the event again and again", toggleLoop],
    [["z"], "the whole video, or the event alone", zoom],
    [["m"], "no sound", mute],
  ]],
  ["Changes", [
    [["e"], "edit: choose a track, then the next", edit],
    [["ArrowUp", "ArrowDown"], "with ← → move the chosen box (shift: its size)", (key) => arrow(0, key.key === "ArrowUp" ? -1 : 1, key)],
    [["x"], "not visible at this time", () => overlay.hide()],
    [["i", "o"], "the event starts, ends here", (key) => bound(key.key.toLowerCase() === "i" ? "start" : "end")],
    [["s"], "save the changes", save],
    [["Escape"], "discard them; choose no track", discard],
  ]],
  ["Page", [
    [["f"], "filter", () => { drawer(true); byId("filters").open = true; byId("filter-form").elements.video.focus(); }],
    [["g"], "figures", () => show_("figures")],
    [["?"], "these keys", () => show_("keys")],
  ]],
], byId("keys"));

// --- start --------------------------------------------------------------------------------------------------------------

queue.addEventListener("pick", ({ detail }) => open(detail.video_id, detail.event_num));
queue.addEventListener("loaded", () => session && showSections());
queue.addEventListener("failed", ({ detail }) => banner("queue", detail.message));
byId("open-queue").addEventListener("click", () => drawer(!document.body.classList.contains("drawer")));
byId("shade").addEventListener("click", () => drawer(false));
byId("open-figures").addEventListener("click", () => show_("figures"));
byId("open-keys").addEventListener("click", () => show_("keys"));
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (press) => press.target === dialog && dialog.close());
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden && sinceMs !== null) [shownMs, sinceMs] = [shownMs + performance.now() - sinceMs, null];
  else if (!document.hidden) sinceMs = performance.now();
});
window.addEventListener("beforeunload", (leaving) => (drafts.any || sending) && leaving.preventDefault());

async function start() {
  showControls();
  const from = fromAddress();
  const known = window.localStorage.getItem("reviewer");
  filters = from.filters;
  const listed = queue.load({ ...filters, reviewer: known });
  try {
    session = await get("/api/session");
  } catch (error) {
    return banner("session", error.message, false);
  }
  byId("output").textContent = session.output.split("/").filter(Boolean).slice(-2).join("/") || session.output;
  byId("output").title = session.output;
  document.title = `Review · ${session.output}`;
  byId("reviewer").value = known ?? session.reviewer ?? "";
  byId("reviewer").addEventListener("change", () => window.localStorage.setItem("reviewer", byId("reviewer").value.trim()));
  if (!session.writable) banner("read-only", `Read only: ${session.why_not ?? "this output can’t be written."}`, false);
  if (session.problems.length) {
    const [lines, are] = [count(session.problems.length, "line"), session.problems.length === 1 ? "is" : "are"];
    banner("problems", `Of the verdicts that are kept, ${lines} can’t be read and ${are} left out: ${session.problems.slice(0, 3).join("; ")}`);
  }
  showFilters();
  if (session.running) window.setInterval(poll, POLL_MS);
  if (from.row) open(from.row.video_id, from.row.event_num);
  await listed;
  showSections();
  return from.row ? queue.select(rowId()) : openFirst();
}

start();
