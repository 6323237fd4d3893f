// How far the review is, how well people agree, and how good what nobody reviewed is.

import { get } from "./api.js";
import { count, el, fill, short } from "./dom.js";
import { head } from "./keys.js";

const percent = (part) => `${short(100 * part, 1)} %`;
const usd = (value) => (value === null ? "–" : `$${value < 0.1 && value > 0 ? value.toPrecision(2) : value.toFixed(2)}`);

export async function showFigures(dialog) {
  fill(dialog, head("Figures", dialog), el("p", { class: "hint" }, "Counting …"));
  dialog.showModal();
  try {
    fill(dialog, head("Figures", dialog), content(await get("/api/figures")));
  } catch (error) {
    fill(dialog, head("Figures", dialog), el("p", { class: "message" }, error.message));
  }
}

const tile = (label, value, note) =>
  el("div", { class: "tile" }, el("div", { class: "label" }, label), el("div", { class: "value" }, value), el("div", { class: "note" }, note));

function content(figures) {
  const { unreviewed } = figures;
  const rate = unreviewed.rate === null ? "–" : percent(unreviewed.rate);
  const interval = unreviewed.looked_at
    ? `${percent(unreviewed.low)} to ${percent(unreviewed.high)} (${percent(unreviewed.confidence)} interval): ${unreviewed.wrong} of ${count(unreviewed.looked_at, "reviewed row")} of the sample`
    : `review rows of the random sample (${unreviewed.sample}) to know`;
  const people = Object.entries(figures.reviewers);
  return [
    el("div", { class: "tiles" },
      tile("Reviewed", figures.reviewed.toLocaleString("en"), `${figures.accepted} accepted, ${figures.rejected} rejected, ${figures.edited} edited`),
      tile("Wrong among the unreviewed", rate, interval),
      tile("Time a row", figures.seconds_per_row === null ? "–" : `${short(figures.seconds_per_row, 1)} s`, `${short(figures.hours)} hours in all`),
      tile("Cost of an accepted question", usd(figures.usd_per_accepted_question),
        `${count(figures.accepted_questions, "question")}; machines ${usd(figures.usd_machine)}, people ${usd(figures.usd_people)}`)),
    people.length ? [el("h3", {}, "Reviewers"), el("dl", { class: "pairs" }, people.map(([name, rows]) => [el("dt", {}, name), el("dd", {}, count(rows, "row"))]))] : null,
    figures.agreement.length
      ? [el("h3", {}, "Agreement"), el("div", { class: "scroll" }, el("table", {},
          el("thead", {}, el("tr", {}, ["Reviewers", "Rows by both", "Same verdict", "Cohen’s κ"].map((one) => el("th", { scope: "col" }, one)))),
          el("tbody", {}, figures.agreement.map((one) => el("tr", {}, el("th", { scope: "row" }, one.reviewers.join(", ")), el("td", {}, one.rows),
            el("td", {}, one.same), el("td", {}, one.kappa === null ? "–" : one.kappa.toFixed(2)))))))]
      : el("p", { class: "hint" }, "No row has been reviewed by two people: filter by “Reviewed: by others, not by me” to give a second opinion."),
    figures.conflicts ? el("p", { class: "hint" }, `${count(figures.conflicts, "verdict")} met another on the same row and had no effect.`) : null,
  ];
}
