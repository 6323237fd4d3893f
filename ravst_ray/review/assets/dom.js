// Elements from data. What comes from the data is only ever set as text, so a name may hold any characters.

/** An element; `on` holds listeners, `data` a dataset, null and false attributes are left out, children are nodes or texts. */
export function el(tag, { on = {}, data = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  Object.assign(element.dataset, data);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Put `children` in place of what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** 75.25 -> "1:15.25"; seconds with `digits` behind the point. */
export function clock(time_s, digits = 2) {
  const scale = 10 ** digits;
  const whole = Math.round(Math.max(0, time_s) * scale) / scale;
  const minutes = Math.floor(whole / 60);
  const seconds = (whole - 60 * minutes).toFixed(digits);
  return `${minutes}:${seconds.padStart(digits ? digits + 3 : 2, "0")}`;
}

/** 4.2 -> "4.2", 4 -> "4": at most `digits` behind the point. */
export const short = (value, digits = 2) => String(Number(value.toFixed(digits)));

/** "0.5–4.2 s" */
export const span = (start_s, end_s) => `${short(start_s)}–${short(end_s)} s`;

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** A machine's key for people: "tiny_box" -> "tiny box". */
export const words = (key) => key.replaceAll("_", " ");
