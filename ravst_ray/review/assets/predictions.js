// The page of predictions: questions, the truth and one or two models' answers on the video. Nothing is changed here.

import { change, showAnswers, showAsked, showReward, swatch } from "./answers.js";
import { get } from "./api.js";
import { Controls } from "./controls.js";
import { byId, count, el, fill } from "./dom.js";
import { toAddress } from "./filters.js";
import { listenToKeys } from "./keys.js";
import { List } from "./list.js";
import { Overlay } from "./overlay.js";
import { Player } from "./player.js";
import { banner, say } from "./says.js";
import { eventOf, lanesOf, lastSecond, sidesOf, spanOf } from "./sides.js";
import { showSort } from "./sorting.js";
import { drawer, listenToWindows, Stage } from "./stage.js";
import { Timeline } from "./timeline.js";

class Answers extends List {
  path = "/api/answers";
  summary = null;

  idOf(item) {
    return `${item.qa_id}\n${item.sample}`;
  }

  from(items) {
    return { offset: items.length };
  }

  took({ rows, outcomes, means, total }) {
    this.summary = { rows, outcomes, means, total };
  }

  content(item) {
    const [first, second] = item.scores;
    const scores = item.scores.map((score) => (score === null ? "–" : score.toFixed(2)));
    const known = item.scores.length > 1 && first !== null && second !== null;
    const risen = known ? Math.round((second - first) * 1e6) / 1e6 : 0;
    const all = `${item.task}${item.kind ? ` ${item.kind}` : ""} · ${item.qa_id}${item.sample ? ` · answer ${item.sample + 1}` : ""}`;
    const lacking = item.answered.flatMap((one, index) => (one ? [] : [`no answer of ${session.runs[index].name}`]));
    return [
      el("i", { class: `dot ${known ? (risen > 0 ? "accepted sure" : risen < 0 ? "rejected sure" : "same") : "same"}` }),
      el("b", {}, item.question),
      el("span", { class: "when" }, scores.join(" → ")),
      el("span", { class: "where" }, all),
      known ? el("span", { class: `change ${risen > 0 ? "up" : risen < 0 ? "down" : ""}` }, change(risen)) : null,
      lacking.length ? el("span", { class: "more" }, lacking.map((one) => el("em", {}, one))) : null,
    ];
  }
}

const player = new Player(byId("video"), byId("picture"));
const overlay = new Overlay(byId("overlay"), player, null);
const timeline = new Timeline(byId("timeline"), player);
const stage = new Stage(player, timeline);
const list = new Answers(byId("rows"));
const hidden = new Set(); // keys of sides

let session = null;
let filters = {};
let item = null;
let sides = [];
let opening = 0; // counts what was opened, so that a late answer of the one before is dropped
let listing = 0; // the same of lists

const shown = () => item && { duration_s: item.video.shown_s, span: spanOf(item) };
const controls = new Controls(byId("controls"), player, timeline, shown);
const rowId = () => item && list.idOf(item);

// --- the list -----------------------------------------------------------------------------------------------------------

const names = () => session.runs.map((run) => run.name);

async function setFilters(changed) {
  filters = Object.fromEntries(Object.entries({ ...filters, ...changed }).filter(([, value]) => value !== "" && value !== null && value?.length !== 0));
  toAddress(filters, item && { id: item.qa_id, sample: item.sample });
  const turn = ++listing;
  await list.load(filters);
  if (turn === listing) openFirst();
}

const openFirst = () => (list.items[0] ? open(list.items[0].qa_id, list.items[0].sample, list.items[0].video_id) : openNothing());

async function go(places) {
  const beside = await list.beside(rowId(), places);
  if (beside) return open(beside.qa_id, beside.sample, beside.video_id);
  return say(places > 0 ? "That was the last question of the list." : "This is the first question of the list.");
}

// --- a question ---------------------------------------------------------------------------------------------------------

function openNothing() {
  opening += 1;
  item = null;
  stage.close();
  overlay.clear();
  byId("item").hidden = true;
  byId("nothing").hidden = false;
  fill(byId("nothing"), "No answer is like that: change the filter.");
}

/** `videoId` is given where it is known already: its file begins to load while the answers do. */
async function open(id, sample, videoId = null) {
  const turn = ++opening;
  const before = item?.video_id ?? null;
  drawer(false);
  say("");
  byId("nothing").hidden = true;
  let opened = before;
  if (videoId !== null && videoId !== before) {
    overlay.clear();
    stage.open((opened = videoId), 0);
  }
  let found;
  try {
    found = await get("/api/answer", { id, sample });
  } catch (error) {
    if (turn === opening) banner("item", error.message);
    return;
  }
  if (turn !== opening) return;
  banner("item", null);
  const file = item?.video; // what is known of the same file
  item = found;
  if (item.video_id !== opened) stage.open(item.video_id, 0);
  if (item.video_id === before) item.video = { ...file, ...item.video };
  item.video.shown_s = item.video.duration_s || item.video.end_s || lastSecond(item);
  sides = sidesOf(item, names());
  toAddress(filters, { id, sample });
  list.select(rowId());
  byId("item").hidden = false;
  show();
  player.pause();
  player.seek(item.asked_s);
  if (item.video_id !== before) stage.read(item.video_id, item.video);
  const next = await list.beside(rowId(), 1).catch(() => null);
  if (next && next.video_id !== item?.video_id) stage.preload(next.video_id);
}

function show() {
  const drawn = sides.filter((side) => side.answer && !hidden.has(side.key));
  const { event, colors } = eventOf(item, drawn);
  if (item.video.width) overlay.show(event, item.video, colors);
  const lanes = lanesOf(drawn, (side, name) => el("span", { class: "lane-name" }, swatch(side), el("span", { title: name }, name), el("small", {}, side.name)));
  timeline.show({ video: { duration_s: item.video.shown_s }, lanes }, event, colors, () => new Map(), overlay.selected);
  showAsked(byId("head"), item);
  showReward(byId("reward"), item, sides);
  showAnswers(byId("answers"), item, sides, { seek: (time_s) => { player.pause(); player.seek(time_s); } });
  showSides();
  controls.show();
}

/** Which sides are drawn, and the way to the questions beside. */
function showSides() {
  fill(byId("verdicts"),
    sides.map((side) => el("button", { type: "button", class: "side", "aria-pressed": String(!hidden.has(side.key)), title: "Draw it or not", on: { click: () => toggle(side.key) } },
      swatch(side), side.name, " ", el("kbd", {}, side.key))),
    el("span", { class: "gap" }),
    el("button", { type: "button", on: { click: () => go(-1) } }, "Previous ", el("kbd", {}, "p")),
    el("button", { type: "button", on: { click: () => go(1) } }, "Next ", el("kbd", {}, "n")));
}

function toggle(key) {
  if (!sides.some((side) => side.key === key)) return;
  if (!hidden.delete(key)) hidden.add(key);
  show();
}

function select(trackId) {
  overlay.select(overlay.selected === trackId ? null : trackId);
  show();
}

// --- events, pointer, keys ----------------------------------------------------------------------------------------------

stage.addEventListener("file", ({ detail }) => {
  if (!item) return;
  const { width, height, fps, end_s } = detail;
  item.video = { ...item.video, width, height, fps, end_s, shown_s: item.video.duration_s || end_s };
  show();
});
overlay.addEventListener("select", ({ detail }) => select(detail));
overlay.addEventListener("tap", () => player.toggle());
timeline.addEventListener("seek", ({ detail }) => { player.pause(); player.seek(detail); });
timeline.addEventListener("track", ({ detail }) => select(detail));
list.addEventListener("pick", ({ detail }) => open(detail.qa_id, detail.sample, detail.video_id));
list.addEventListener("failed", ({ detail }) => banner("queue", detail.message));
list.addEventListener("loaded", () => session && showSort(session, filters, list.summary, setFilters));
listenToWindows();

listenToKeys([
  ["Questions", [
    [["n", "j", "ArrowDown"], "next question", () => go(1)],
    [["p", "k", "ArrowUp"], "previous question", () => go(-1)],
    [["1", "2", "3"], "draw the truth, the first run, the second, or not", (key) => toggle(key.key)],
  ]],
  ["Video", [
    ...controls.keys(),
    [["ArrowLeft", "ArrowRight"], "a picture back, on", (key) => player.step(key.key === "ArrowLeft" ? -1 : 1)],
  ]],
  ["Page", [
    [["f"], "search and filter", () => { drawer(true); byId("filters").open = true; byId("filter-form").elements.text.focus(); }],
    [["?"], "these keys", () => byId("keys").showModal()],
  ]],
], byId("keys"));

// --- start --------------------------------------------------------------------------------------------------------------

/** What of a file isn't in the list, in words; null where all is. */
function lacks(run) {
  const some = (kind) => run.examples[kind].join(", ");
  const out = [
    run.broken ? `${count(run.broken, "line")} that can’t be read (${some("broken")})` : null,
    run.foreign ? `${count(run.foreign, "answer")} to questions that the annotations don’t have (such as ${some("foreign")})` : null,
  ].filter(Boolean);
  const said = [
    out.length ? `left out: ${out.join(" and ")}` : null,
    run.missing ? `${count(run.missing, "question")} without an answer, which ravst evaluate counts as 0 and this page leaves out` : null,
    run.repeated ? `${count(run.repeated, "further answer")} to a question that has one, a row of its own each` : null,
  ].filter(Boolean);
  return said.length ? `${run.name}: ${said.join("; ")}.` : null;
}

function fromAddress() {
  const given = new URLSearchParams(window.location.hash.slice(1));
  const found = Object.fromEntries(["text", "by", "outcome", "order", "run"].filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
  if (given.has("task")) found.task = given.getAll("task");
  const row = given.has("id") ? [given.get("id"), Number(given.get("sample") ?? 0) || 0] : null;
  return { filters: found, row };
}

async function start() {
  for (const id of ["reviewer-field", "open-figures", "figures", "unsaved", "objects", "questions", "history"]) byId(id).remove();
  byId("open-queue").textContent = "Answers";
  byId("panels").append(el("section", { class: "card", id: "reward", "aria-label": "Reward" }), el("div", { id: "answers" }));
  document.body.classList.add("predictions");
  controls.show();
  try {
    session = await get("/api/session");
  } catch (error) {
    banner("session", error.message, false);
    return;
  }
  document.body.classList.toggle("lone-run", session.runs.length === 1);
  const title = names().join(" → ");
  byId("output").textContent = title;
  byId("output").title = session.runs.map((run) => run.place).join(", ");
  document.title = `Predictions · ${title}`;
  byId("progress").title = session.annotations;
  byId("progress").textContent = `${count(session.rows, "answer")} to ${count(session.questions, "question")}`;
  if (session.runs.length > 1) byId("progress").textContent = `${session.both.toLocaleString("en")} of ${count(session.questions, "question")} answered by both`;
  session.runs.forEach((run, index) => banner(`run-${index}`, lacks(run)));
  const from = fromAddress();
  filters = { order: session.runs.length > 1 ? "lost" : "worst", ...from.filters };
  byId("filters").open = true;
  const listed = list.load(filters);
  if (from.row) open(...from.row);
  await listed;
  if (from.row) list.select(rowId());
  else openFirst();
}

window.addEventListener("hashchange", () => {
  const { row } = fromAddress();
  if (row && (row[0] !== item?.qa_id || row[1] !== item?.sample)) open(...row);
});

start();
