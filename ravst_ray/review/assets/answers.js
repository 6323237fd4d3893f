// Beside the video: what each part of the reward is, and truth and answers as they were read.

import { count, el, fill, short, words } from "./dom.js";
import { boxesAt, timeButton } from "./panels.js";

const SVG = "http://www.w3.org/2000/svg";

export const swatch = (side) => {
  const mark = el("i", { class: side.dashed ? "swatch said" : "swatch" });
  mark.style.setProperty("--color", side.color);
  return mark;
};

export const change = (value) => (value === 0 ? "±0" : `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`);
const direction = (value) => (value > 0 ? "up" : value < 0 ? "down" : "");

/** The question. */
export function showAsked(root, item) {
  const sample = item.samples > 1 ? el("span", {}, `answer ${item.sample + 1} of ${item.samples}`) : null;
  const [asked, ...more] = item.question.split("\n"); // options, and how to answer, have lines of their own
  fill(root,
    el("h2", {}, asked),
    more.length ? el("p", { class: "options" }, more.join("\n")) : null,
    el("p", { class: "facts" }, el("span", { class: "chip", title: item.title }, item.task), item.kind ? el("span", { class: "chip plain" }, words(item.kind)) : null, sample),
    el("p", { class: "hint" }, el("span", { class: "id" }, item.qa_id), " · ", el("span", { class: "id" }, item.video_id)));
}

/** A table of all parts: what each weighs, what each run has of it. */
export function showReward(root, item, sides) {
  const runs = sides.filter((side) => side.dashed);
  const parts = new Map();
  for (const { answer } of runs) for (const part of answer?.parts ?? []) if (!parts.has(part.name)) parts.set(part.name, part.weight);
  const scoreOf = (answer, name) => answer?.parts.find((part) => part.name === name)?.score ?? null;
  const row = (name, says, values, most, off = false) => {
    const both = values.length === 2 && values.every((value) => value !== null);
    return el("tr", { class: off ? "off" : null, data: { part: name } }, el("th", { scope: "row" }, name, says ? [" ", el("small", {}, says)] : null),
      values.map((value, index) => el("td", { class: "n" }, value === null ? "–" : [value.toFixed(2), bar(value / most, runs[index])])),
      runs.length > 1 ? el("td", { class: `n change ${both ? direction(round(values[1] - values[0])) : ""}` }, both ? change(round(values[1] - values[0])) : "") : null);
  };
  const maximum = runs.find(({ answer }) => answer)?.answer.maximum ?? 1;
  fill(root, el("header", {}, el("h3", {}, "Reward")), el("div", { class: "scroll" }, el("table", { class: "parts" },
    el("thead", {}, el("tr", {}, el("th", {}), runs.map((side) => el("th", { scope: "col", class: "n" }, swatch(side), side.name)), runs.length > 1 ? el("th", { class: "n" }, "±") : null)),
    el("tbody", {},
      row("total", `of ${short(maximum)}`, runs.map(({ answer }) => answer?.total ?? null), maximum || 1),
      [...parts].map(([name, weight]) => row(name, `× ${short(weight)}`, runs.map(({ answer }) => scoreOf(answer, name)), 1, !weight))))));
}

const round = (value) => Math.round(value * 1e6) / 1e6;

function bar(part, side) {
  const filled = el("i", {});
  filled.style.width = `${100 * Math.min(Math.max(part, 0), 1)}%`;
  filled.style.background = side.color;
  return el("span", { class: "meter" }, filled);
}

/** A card for each side. run: {seek(time_s)}. */
export function showAnswers(root, item, sides, run) {
  fill(root, sides.map((side) => el("section", { class: "card answer", "aria-label": side.name, data: { side: side.key } },
    el("header", {}, el("h3", {}, swatch(side), side.name), side.answer && side.dashed ? el("p", { class: "hint" }, facts(side.answer)) : null),
    side.answer ? said(side, run) : el("p", { class: "hint" }, "No answer in this file."))));
}

function facts(answer) {
  const told = [
    answer.tokens === null ? null : count(answer.tokens, "token"),
    answer.truncated ? "cut off" : null,
    answer.others ? `the first of ${answer.others + 1} samples` : null,
  ];
  return told.filter(Boolean).join(" · ");
}

function said({ answer, dashed }, { seek }) {
  const names = dashed ? answer.names : answer.names.map((name) => ({ name, right: null }));
  return [
    answer.value === null ? null : el("p", { class: "value" }, answer.value),
    names.length || answer.missed?.length ? el("ul", { class: "said-names" },
      names.map(({ name, right }) => el("li", { class: right === null ? "" : right ? "right" : "wrong" }, el("b", {}, right === null ? "" : right ? "✓ " : "✗ "), name)),
      (answer.missed ?? []).map((name) => el("li", { class: "missed", title: "in the true answer, not in this one" }, "missed: ", name))) : null,
    answer.intervals.length || answer.tracks.length ? el("ul", { class: "told" },
      answer.intervals.map((one) => el("li", {}, el("b", {}, one.name), el("span", {}, "from ", timeButton(one.start_s, seek), " to ", timeButton(one.end_s, seek), " s"))),
      answer.tracks.map((one) => el("li", {}, el("b", {}, one.name), boxesAt(one.times_s.length, one.times_s, seek)))) : null,
    answer.more ? el("p", { class: "hint" }, `${count(answer.more, "more object")} not shown`) : null,
    answer.graphs.length ? el("p", { class: "told" }, `${count(answer.graphs.reduce((sum, one) => sum + one.dots.length, 0), "place")} at `, answer.graphs.map(({ time_s }) => timeButton(time_s, seek)), " s") : null,
    answer.plans?.length ? el("div", { class: "plans" }, answer.plans.map(plan)) : null,
    answer.malformed?.length ? el("p", {}, answer.malformed.map(({ kind, count: times, says }) => el("span", { class: "chip reason", title: says }, `${words(kind)}${times > 1 ? ` × ${times}` : ""}`))) : null,
    answer.verbatim ? el("p", { class: "hint" }, "Written as the model said it: its boxes are in its own units, not in pixels.") : null,
    answer.silent ? el("p", { class: "hint" }, "The model was given silence: this file has no sound that can be read.") : null,
    el("details", { class: "raw" }, el("summary", {}, dashed ? "What the model wrote" : "As it is written"), el("pre", { tabindex: "0" }, answer.text)),
  ];
}

const svg = (tag, attributes, ...children) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
};

/** A graph in metres, seen from above: filled where the truth has a thing, a ring where the model says it is. */
function plan({ time_s, height, metre, marks, links }) {
  const mark = ({ x, y, side, label }) => [
    svg("circle", { cx: x, cy: y, r: 4, class: side }),
    ...(label ? [svg("text", { x: x > 160 ? x - 7 : x + 7, y: y + 3, "text-anchor": x > 160 ? "end" : "start" }, label)] : []),
  ];
  return el("figure", {},
    svg("svg", { class: "plan", viewBox: `0 0 240 ${height}`, role: "img", "aria-label": `Seen from above at ${short(time_s)} s` },
      links.map(([x1, y1, x2, y2]) => svg("line", { class: "link", x1, y1, x2, y2 })), marks.flatMap(mark),
      svg("path", { d: `M8 ${height - 7}h${metre}` }), svg("text", { x: 8, y: height - 11 }, "1 m")),
    el("figcaption", {}, `${short(time_s)} s, seen from above`));
}
