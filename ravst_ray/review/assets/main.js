// The review page: a queue of rows, the video of one of them, and verdicts on it.

import { get } from "./api.js";
import { Controls } from "./controls.js";
import { byId, count, fill } from "./dom.js";
import { Drafts, NEW } from "./drafts.js";
import { showFigures } from "./figures.js";
import { buildFilters, filtersOn, fromAddress, toAddress } from "./filters.js";
import { trackColors } from "./geometry.js";
import { listenToKeys } from "./keys.js";
import { Overlay } from "./overlay.js";
import { showHead, showHistory, showObjects, showQuestions } from "./panels.js";
import { Player } from "./player.js";
import { Queue, sectionButtons } from "./queue.js";
import { banner, say } from "./says.js";
import { drawer, listenToWindows, Stage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { reviewer, Verdicts } from "./verdicts.js";

const POLL_MS = 10_000; // for rows of a run that goes on

const drafts = new Drafts();
const player = new Player(byId("video"), byId("picture"));
const overlay = new Overlay(byId("overlay"), player, drafts);
const timeline = new Timeline(byId("timeline"), player);
const stage = new Stage(player, timeline);
const queue = new Queue(byId("rows"));

let session = null;
let filters = {};
let item = null; // as the server gave it
let eventNum = null;
let opening = 0; // counts what was opened, so that a late answer of the one before is dropped
let everywhere = false;

const event = () => item?.events.find((one) => one.event_num === eventNum) ?? null;
const rowId = () => item?.annotation_id ?? null;

const verdicts = new Verdicts({
  get item() { return item; },
  get event() { return event(); },
  get session() { return session; },
  get chosen() { return overlay.selected; },
  adopt, open, poll, edit, go, choose: select,
}, drafts, queue);

const controls = new Controls(byId("controls"), player, timeline, () => {
  const one = event();
  return one && { duration_s: item.video.duration_s, span: [one.start_s, one.end_s] };
}, step);

// --- the queue ----------------------------------------------------------------------------------------------------------

function showFilters() {
  buildFilters(byId("filter-form"), session, filters, setFilters);
  byId("filters-on").textContent = filtersOn(filters) ? `(${filtersOn(filters)})` : "";
}

async function setFilters(changed) {
  filters = changed;
  toAddress(filters, item && { id: item.video_id, event: eventNum });
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

function openNothing() {
  item = eventNum = null;
  stage.close();
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
    stage.open(videoId, known?.start_s ?? 0);
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
  verdicts.begin();
  toAddress(filters, { id: videoId, event: number });
  queue.select(rowId());
  overlay.select(null);
  byId("item").hidden = false;
  show();
  player.seek(event().start_s);
  if (!sameVideo) stage.read(videoId, item.video);
  preload();
  return undefined;
}

/** What the next row's video needs, while this one is looked at. */
async function preload() {
  const next = await queue.beside(rowId(), 1).catch(() => null);
  if (next && next.video_id !== item?.video_id) stage.preload(next.video_id);
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
    edit: (edit) => verdicts.send({ what: "edit", edit }),
    select,
    everywhere: (value) => { everywhere = value; show(); },
    add: (name) => { player.pause(); drafts.add(name); select(NEW); },
    split: (track) => verdicts.send({ what: "edit", edit: { op: "split_track", track_id: track.track_id, at_s: player.aim_s } }),
  });
  showQuestions(byId("questions"), item, one, writable, {
    seek: (time_s) => { player.pause(); player.seek(time_s); },
    answer: (where) => overlay.answer(where),
    judge: (question, what) => verdicts.send({ what, qa_id: question.qa_id }),
  });
  showHistory(byId("history"), item, one);
  verdicts.show();
  controls.show();
}

function select(trackId) {
  overlay.select(trackId);
  show();
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

// --- events, pointer, keys ----------------------------------------------------------------------------------------------

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

listenToKeys([
  ["Verdicts", verdicts.keys()],
  ["Video", [
    ...controls.keys(),
    [["ArrowLeft", "ArrowRight"], "a picture back, on; with a track chosen they move its box", (key) => arrow(key.key === "ArrowLeft" ? -1 : 1, 0, key)],
    [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "jump to an event of the video", (key) => nth(Number(key.key))],
    [["[", "]"], "the event before, behind", (key) => besideEvent(key.key === "[" ? -1 : 1)],
  ]],
  ["Changes", [
    [["e"], "edit: choose a track, then the next", edit],
    [["ArrowUp", "ArrowDown"], "with ← → move the chosen box (shift: its size)", (key) => arrow(0, key.key === "ArrowUp" ? -1 : 1, key)],
    [["x"], "not visible at this time", () => overlay.hide()],
    [["i", "o"], "the event starts, ends here", (key) => bound(key.key.toLowerCase() === "i" ? "start" : "end")],
    [["s"], "save the changes", () => verdicts.save()],
    [["Escape"], "discard them; choose no track", () => verdicts.discard()],
  ]],
  ["Page", [
    [["f"], "filter", () => { drawer(true); byId("filters").open = true; byId("filter-form").elements.video.focus(); }],
    [["g"], "figures", () => showFigures(byId("figures"))],
    [["?"], "these keys", () => byId("keys").showModal()],
  ]],
], byId("keys"));

// --- start --------------------------------------------------------------------------------------------------------------

queue.addEventListener("pick", ({ detail }) => open(detail.video_id, detail.event_num));
queue.addEventListener("loaded", () => session && showSections());
queue.addEventListener("failed", ({ detail }) => banner("queue", detail.message));
byId("open-figures").addEventListener("click", () => showFigures(byId("figures")));
listenToWindows();

async function start() {
  controls.show();
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
  byId("reviewer").addEventListener("change", () => {
    window.localStorage.setItem("reviewer", byId("reviewer").value.trim());
    byId("reviewer").blur(); // the next key is no part of the name
    if (filters.reviewed === "second") setFilters(filters); // of somebody else
  });
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
