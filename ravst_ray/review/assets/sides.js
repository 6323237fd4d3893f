// The sides of a question, truth and answers, as what timeline and overlay draw: events with tracks, lanes, places.

// Colours of the reports: truth and first run; told apart by colour-blind readers.
const COLORS = ["#56b4e9", "#e69f00", "#cc79a7"];

/** [{name, color, dashed, answer}] of truth and of each run that has an answer; `key` is what shows and hides it. */
export function sidesOf(item, runs) {
  const sides = [{ key: "1", name: "truth", answer: item.truth }, ...runs.map((name, index) => ({ key: String(index + 2), name, answer: item.answers[index] }))];
  return sides.map((side, index) => ({ ...side, color: COLORS[index], dashed: index > 0 }));
}

/** The last second that anything is said of. */
export function lastSecond(item) {
  const said = [item.truth, ...item.answers].filter(Boolean);
  const ends = said.flatMap((one) => [
    ...one.intervals.map(({ end_s }) => end_s), ...one.tracks.map((track) => track.times_s.at(-1)), ...one.graphs.map(({ time_s }) => time_s)]);
  return ends.reduce((last, one) => Math.max(last, one), 1);
}

/** What the question is about, to loop and to zoom to. */
export function spanOf(item) {
  const duration_s = item.video.shown_s;
  const asked = item.span ?? (item.truth.intervals[0] && [item.truth.intervals[0].start_s, item.truth.intervals[0].end_s]);
  const [start_s, end_s] = asked ?? [0, duration_s];
  return end_s - start_s > 0.1 && start_s < duration_s ? [Math.max(0, start_s), Math.min(end_s, duration_s)] : [0, duration_s];
}

/** {event, colors} for the overlay and the timeline: each side's boxes as tracks, its places as graphs. */
export function eventOf(item, sides) {
  const [start_s, end_s] = spanOf(item);
  const colors = new Map();
  const tracks = sides.flatMap((side, place) => side.answer.tracks.map((track, index) => {
    const track_id = 1000 * place + index;
    colors.set(`0/${track_id}`, side.color);
    return { ...track, track_id, says: side.name, below: side.dashed, audible: !side.dashed, bare: side.dashed };
  }));
  const graphs = sides.map((side) => ({ color: side.color, hollow: side.dashed, frames: side.answer.graphs }));
  return { event: { event_num: 0, start_s, end_s, frame_times_s: [], tracks, graphs }, colors };
}

/** The intervals of each side as lanes of the timeline, a row for each name. */
export function lanesOf(sides, label) {
  return sides.flatMap((side) => {
    const names = new Map();
    for (const one of side.answer.intervals) names.set(one.name, [...(names.get(one.name) ?? []), one]);
    return [...names].map(([name, spans]) => ({
      name: label(side, name), color: side.color, dashed: side.dashed,
      spans: spans.map(({ start_s, end_s }) => ({ start_s: Math.min(start_s, end_s), end_s: Math.max(start_s, end_s), title: `${side.name}: ${name}, ${start_s}–${end_s} s` })),
    }));
  });
}
