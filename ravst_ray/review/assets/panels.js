// Beside the video: the event's objects with their tracks, its questions, and what people did to it.

import { NEW } from "./drafts.js";
import { clock, count, el, fill, short, span, words } from "./dom.js";

const MOST_TIMES = 12; // of an answer's boxes, as buttons

/** A text that becomes a field when pressed; `save` is called with another text than `old`. */
function editable(text, title, enabled, save, old = text) {
  if (!enabled) return el("span", { class: "text" }, text);
  const button = el("button", { type: "button", class: "text", title }, text);
  button.addEventListener("click", () => {
    const field = el("input", { value: old, maxlength: 80, "aria-label": title, autocomplete: "off", spellcheck: "false" });
    let done = false;
    const end = (keep) => {
      if (done) return;
      done = true;
      field.replaceWith(button);
      if (keep && field.value.trim() && field.value.trim() !== old) save(field.value.trim());
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") end(false);
      if (event.key === "Enter" || event.key === "Escape") event.stopPropagation();
    });
    field.addEventListener("blur", () => end(true));
    button.replaceWith(field);
    field.focus();
    field.select();
  });
  return button;
}

const small = (text, title, run, enabled = true) =>
  enabled ? el("button", { type: "button", class: "small", title, on: { click: run } }, text) : null;

/** run: {edit(edit), select(trackId), split(track), everywhere(bool), add(name)}; `event` is as it will be, with what isn't saved. */
export function showObjects(root, item, event, { colors, selected, writable, everywhere }, run) {
  const names = new Map(event.objects.map((thing) => [thing.name, []]));
  for (const track of event.tracks) names.set(track.name, [...(names.get(track.name) ?? []), track]);
  const things = new Map(event.objects.map((thing) => [thing.name, thing]));
  const elsewhere = item.events.some((one) => one.event_num !== event.event_num && one.objects.some((thing) => names.has(thing.name)));
  const toggle = el("input", { type: "checkbox", checked: everywhere });
  toggle.addEventListener("change", () => run.everywhere(toggle.checked));
  fill(
    root,
    el("header", {}, el("h3", {}, "Objects"), el("p", { class: "hint" }, `${count(names.size, "object")}, ${count(event.tracks.length, "track")}`)),
    names.size ? el("ul", { class: "objects" }, [...names].map(([name, tracks]) => {
      const thing = things.get(name) ?? { name, audible: tracks[0].audible, heard_in: [] };
      return object(thing, tracks, event, { colors, selected, writable, everywhere }, run);
    })) : el("p", { class: "hint" }, "None was found."),
    writable && event.frame_times_s.length
      ? el("p", { class: "tools add" }, editable("add an object", "The name of an object that was overlooked; then draw it", true, run.add, "")) : null,
    writable && elsewhere ? el("label", { class: "hint everywhere" }, toggle, "Change names and sounds in all events of the video") : null,
  );
}

function object(thing, tracks, event, { colors, selected, writable: may, everywhere }, run) {
  const writable = may && (!tracks.length || tracks.some((track) => track.track_id !== NEW));
  const own = !thing.heard_in?.length || thing.heard_in.includes(event.event_num);
  const sound = el("button", {
    type: "button", class: "sound", "aria-pressed": String(thing.audible), disabled: !writable || (!own && !everywhere),
    title: own ? (thing.audible ? "It sounds in this event; press if it doesn’t" : "It doesn’t sound in this event; press if it does") : `Heard in event ${thing.heard_in.join(", ")} only: change it there, or in all events`,
    on: { click: () => run.edit({ op: "audible", name: thing.name, audible: !thing.audible, everywhere }) },
  }, thing.audible ? (own ? "audible" : `in event ${thing.heard_in.join(", ")}`) : "silent");
  return el("li", {},
    el("div", { class: "object" },
      editable(thing.name, "Rename the object", writable, (to) => run.edit({ op: "rename", name: thing.name, to, everywhere })),
      sound,
      small("remove", "Remove the object and its tracks", () => run.edit({ op: "remove_object", name: thing.name }), writable)),
    tracks.length ? el("ul", { class: "tracks" }, tracks.map((track) => {
      const swatch = el("i", { class: "swatch" });
      swatch.style.background = colors.get(`${event.event_num}/${track.track_id}`);
      const chosen = track.track_id === selected;
      return el("li", { class: chosen ? "chosen" : "" },
        el("button", { type: "button", class: "track", "aria-pressed": String(chosen), on: { click: () => run.select(track.track_id) } },
          swatch, track.track_id === NEW ? "new" : `track ${track.track_id}`, el("small", {}, track.times_s.length ? span(track.times_s[0], track.times_s.at(-1)) : "nowhere")),
        writable && chosen && track.track_id !== NEW ? el("span", { class: "tools" },
          tracks.length > 1 ? editable("name", "Give this track alone another name", true, (to) => run.edit({ op: "rename_track", track_id: track.track_id, to }), thing.name) : null,
          small("split here", "From the shown time on it is another object", () => run.split(track)),
          small("delete", "Delete the track", () => run.edit({ op: "delete_track", track_id: track.track_id }))) : null);
    })) : el("p", { class: "hint" }, "not seen in this event"));
}

/** run: {seek(time_s), answer(where or null), judge(question, what)}. */
export function showQuestions(root, item, event, writable, run) {
  const questions = item.questions.filter((one) => one.event_num === event.event_num);
  const left = Object.entries(item.left_out ?? {}).map(([reason, number]) => `${number} × ${words(reason)}`);
  fill(
    root,
    el("header", {}, el("h3", {}, "Questions"), el("p", { class: "hint" }, questions.length ? count(questions.length, "question") : "This event has none.")),
    questions.length ? el("ol", { class: "asked-of" }, questions.map((one) => question(one, writable, run))) : null,
    left.length ? el("p", { class: "hint" }, `Of the video left out: ${left.join(", ")}`) : null,
  );
}

/** A time that is gone to when it is pressed. */
export const timeButton = (time_s, seek) => el("button", { type: "button", class: "time", on: { click: () => seek(time_s) } }, short(time_s));

/** "7 boxes at 1 2 3 … s", each time a button. */
export function boxesAt(boxes, times_s, seek) {
  const times = [...new Set(times_s)];
  return el("span", {}, `${count(boxes, "box", "boxes")} at `, times.slice(0, MOST_TIMES).flatMap((one) => timeButton(one, seek)), times.length > MOST_TIMES ? " …" : " s");
}

function question(one, writable, run) {
  const seek = (time_s) => timeButton(time_s, run.seek);
  const verdict = (what, state) => el("button", {
    type: "button", class: `small ${what}`, "aria-pressed": String(one.verdict === state), title: `${what} this question alone`,
    on: { click: () => run.judge(one, what) },
  }, what);
  return el("li", { class: one.verdict ?? one.status },
    el("p", { class: "q" }, el("span", { class: "chip" }, one.task), one.question),
    one.objects.length ? el("ul", {}, one.objects.map((thing) => {
      const answer = el("li", { tabindex: thing.where ? "0" : null },
        el("b", {}, thing.name),
        thing.when ? el("span", {}, "from ", seek(thing.when[0]), " to ", seek(thing.when[1]), " s") : null,
        thing.where?.length ? boxesAt(thing.where.length, thing.where.map(([time_s]) => time_s), run.seek) : null);
      for (const name of ["pointerenter", "focusin"]) answer.addEventListener(name, () => run.answer(thing.where));
      for (const name of ["pointerleave", "focusout"]) answer.addEventListener(name, () => run.answer(null));
      return answer;
    })) : el("pre", {}, one.answer),
    el("div", { class: "judge" }, el("span", { class: `badge ${one.verdict ?? one.status}` }, one.verdict ?? one.status),
      writable ? [verdict("accept", "accepted"), verdict("reject", "rejected")] : null));
}

const DID = { accept: "accepted", reject: "rejected" };

/** What a verdict of the history did, in words. */
export function did(entry) {
  if (entry.what === "undo") return "took a verdict back";
  if (entry.what !== "edit") return `${DID[entry.what] ?? entry.what}${entry.qa_id ? " a question" : ""}`;
  const { op, ...edit } = entry.edit ?? { op: "changed it" };
  const to = edit.to === undefined || edit.to === null ? "" : ` to “${edit.to}”`;
  return {
    rename: `renamed “${edit.name}”${to}`,
    rename_track: `renamed track ${edit.track_id}${to}`,
    audible: `made “${edit.name}” ${edit.audible ? "audible" : "silent"}`,
    remove_object: `removed “${edit.name}”`,
    bounds: op === "bounds" ? `moved the event to ${span(edit.start_s, edit.end_s)}` : "",
    boxes: op === "boxes" ? `drew ${count(edit.keys.length, "box", "boxes")} of track ${edit.track_id}` : "",
    add_track: `added “${edit.name}”`,
    delete_track: `deleted track ${edit.track_id}`,
    split_track: op === "split_track" ? `split track ${edit.track_id} at ${short(edit.at_s)} s` : "",
  }[op] ?? words(op);
}

export function showHistory(root, item, event) {
  const entries = item.history.filter((one) => one.event_num === event.event_num).reverse();
  const states = { undone: "taken back", conflict: "no effect: another verdict came first", lapsed: "no effect any more" };
  fill(
    root,
    el("header", {}, el("h3", {}, "History"), el("p", { class: "hint" }, entries.length ? count(entries.length, "entry", "entries") : "Nobody has reviewed this event.")),
    entries.length ? el("ol", { class: "entries" }, entries.map((one) =>
      el("li", { class: one.state }, el("b", {}, one.who), ` ${did(one)} `,
        el("time", { datetime: one.when, title: one.when }, new Date(one.when).toLocaleString()),
        states[one.state] ? el("em", {}, ` ${states[one.state]}`) : null))) : null,
  );
}

/** Above the video: what the event is, and what the machine and people say of it. run: {event(event_num)}. */
export function showHead(root, item, event, reasons, run) {
  const index = item.events.findIndex((one) => one.event_num === event.event_num);
  const says = new Map(reasons.map((one) => [one.name, one.says]));
  const status = event.verdict ?? event.status;
  fill(
    root,
    el("h2", {}, event.label),
    el("p", { class: "facts" },
      el("span", { class: `badge ${status}` }, event.verdict ? `${event.verdict} by a person` : `${status} by the machine`),
      event.edited ? el("span", { class: "badge" }, "edited") : null,
      event.reasons.map((reason) => el("span", { class: "chip reason", title: says.get(reason) ?? null }, words(reason)))),
    event.caption ? el("p", { class: "caption" }, event.caption) : null,
    el("p", { class: "hint" }, el("span", { class: "id" }, item.video_id), ` · event ${index + 1} of ${item.events.length} · ${span(event.start_s, event.end_s)} of ${clock(item.video.duration_s, 1)}`),
  );
}
