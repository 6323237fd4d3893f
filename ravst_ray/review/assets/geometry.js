// Boxes in time and in the picture. Boxes are [x1, y1, x2, y2] in pixels of the displayed picture, times are seconds.

const NEAR_S = 1e-6;

/** Linear from one box to another; part 0…1. */
const between = (from, to, part) => from.map((value, side) => value + (to[side] - value) * part);

/** The usual step of a grid of times; one second where there are too few. */
export function stepOf(times_s) {
  const steps = times_s.slice(1).map((time_s, index) => time_s - times_s[index]).sort((a, b) => a - b);
  return steps[Math.floor(steps.length / 2)] || 1;
}

/** The time of a sorted grid that is nearest, null of an empty one. */
export function nearest(times_s, time_s) {
  return times_s.reduce((best, one) => (best === null || Math.abs(one - time_s) < Math.abs(best - time_s) ? one : best), null);
}

/** Where a track is at a time: straight between two boxes that follow each other, held half a step at its ends; null: nowhere. */
export function boxAt(times_s, boxes, time_s, step_s) {
  const after = times_s.findIndex((one) => one > time_s + NEAR_S);
  const later = after < 0 ? times_s.length : after;
  const earlier = later - 1;
  if (earlier >= 0 && later < times_s.length && times_s[later] - times_s[earlier] <= 1.5 * step_s) {
    return between(boxes[earlier], boxes[later], (time_s - times_s[earlier]) / (times_s[later] - times_s[earlier]));
  }
  if (earlier >= 0 && time_s - times_s[earlier] <= step_s / 2 + NEAR_S) return boxes[earlier];
  if (later < times_s.length && times_s[later] - time_s <= step_s / 2 + NEAR_S) return boxes[later];
  return null;
}

/** A track with boxes drawn by hand, as the server will make it: between two keys all boxes follow a straight line.
 *  keys: a Map from times of the grid to boxes, or to null where the object isn't visible. */
export function withKeys(track, keys, grid_s) {
  const at = new Map(track.times_s.map((time_s, index) => [time_s, track.boxes_xyxy_px[index]]));
  const set = [...keys.keys()].sort((a, b) => a - b);
  for (const time_s of grid_s) {
    const next = set.findIndex((key_s) => key_s >= time_s);
    if (next >= 0 && set[next] === time_s) at.set(time_s, keys.get(time_s));
    else if (next > 0 && keys.get(set[next - 1]) && keys.get(set[next])) {
      const [from_s, to_s] = [set[next - 1], set[next]];
      at.set(time_s, between(keys.get(from_s), keys.get(to_s), (time_s - from_s) / (to_s - from_s)));
    }
  }
  const times_s = [...at.keys()].filter((time_s) => at.get(time_s)).sort((a, b) => a - b);
  return { ...track, times_s, boxes_xyxy_px: times_s.map((time_s) => at.get(time_s)) };
}

/** Which picture is shown at a time: the last that begins by then. starts_s is sorted. */
export function frameAt(starts_s, time_s) {
  let [low, high] = [0, starts_s.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts_s[middle] <= time_s + 1e-4) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Sides that a point is at, of "l", "r", "t", "b"; "" inside, null outside. */
export function grip(box, x, y, reach) {
  const [x1, y1, x2, y2] = box;
  if (x < x1 - reach || x > x2 + reach || y < y1 - reach || y > y2 + reach) return null;
  const [left, right, top, bottom] = [x - x1, x2 - x, y - y1, y2 - y].map(Math.abs);
  const across = left <= reach && left <= right ? "l" : right <= reach ? "r" : "";
  const down = top <= reach && top <= bottom ? "t" : bottom <= reach ? "b" : "";
  return across + down;
}

/** A box moved ("") or with the sides of a grip moved, within the picture and never thinner than a pixel. */
export function dragged(box, sides, dx, dy, width, height) {
  let [x1, y1, x2, y2] = box;
  if (sides === "") {
    const x = Math.min(Math.max(dx, -x1), width - x2);
    const y = Math.min(Math.max(dy, -y1), height - y2);
    return [x1 + x, y1 + y, x2 + x, y2 + y];
  }
  if (sides.includes("l")) x1 = Math.min(Math.max(0, x1 + dx), x2 - 1);
  if (sides.includes("r")) x2 = Math.max(Math.min(width, x2 + dx), x1 + 1);
  if (sides.includes("t")) y1 = Math.min(Math.max(0, y1 + dy), y2 - 1);
  if (sides.includes("b")) y2 = Math.max(Math.min(height, y2 + dy), y1 + 1);
  return [x1, y1, x2, y2];
}

/** The box between two corners, within the picture and never thinner than a pixel. */
export function drawn(x, y, toX, toY, width, height) {
  const [left, top] = [Math.max(0, Math.min(x, toX, width - 1)), Math.max(0, Math.min(y, toY, height - 1))];
  return [left, top, Math.max(left + 1, Math.min(width, Math.max(x, toX))), Math.max(top + 1, Math.min(height, Math.max(y, toY)))];
}

/** Rows for spans so that no two of a row overlap; the row of each. */
export function stacked(spans) {
  const ends = [];
  const rows = new Array(spans.length);
  for (const index of spans.map((_, index) => index).sort((a, b) => spans[a][0] - spans[b][0])) {
    let row = ends.findIndex((end) => end <= spans[index][0]);
    if (row < 0) row = ends.length;
    ends[row] = spans[index][1];
    rows[index] = row;
  }
  return rows;
}

// The palette of the reports: told apart by colour-blind readers.
const PALETTE = ["#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2"];

/** A colour per "event/track"; an object named alike in several events keeps its colour. */
export function trackColors(events) {
  const slots = new Map();
  const colors = new Map();
  for (const event of events) {
    const seen = new Map();
    for (const track of event.tracks) {
      const nth = (seen.get(track.name) ?? -1) + 1;
      seen.set(track.name, nth);
      const key = JSON.stringify([track.name, nth]);
      if (!slots.has(key)) slots.set(key, slots.size);
      colors.set(`${event.event_num}/${track.track_id}`, PALETTE[slots.get(key) % PALETTE.length]);
    }
  }
  return colors;
}

/** Black or white, whichever is easier to read on a colour "#rrggbb". */
export function inkOn(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const part = parseInt(color.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}
