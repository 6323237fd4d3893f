// The server's endpoints. All ids travel as parameters or in bodies.

export class ApiError extends Error {
  /** `status` 0: no answer came. `item`: of a conflict, how the event is now. */
  constructor(status, key, message, item = null) {
    super(message);
    this.status = status;
    this.key = key;
    this.item = item;
  }
}

/** An address with parameters; null ones are left out, of a list each is given. */
export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") query.append(name, one);
    }
  }
  return query.size ? `${path}?${query}` : path;
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "no_answer", "The server doesn't answer: is `ravst review` still running?");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  if (response.status === 401) throw new ApiError(401, "unauthorized", "Open the page again by its address with the token.");
  throw new ApiError(response.status, body?.error ?? "failed", body?.message ?? `The server failed (${response.status}).`, body?.item);
}

export const get = (path, parameters, signal) => answer(fetch(address(path, parameters), { signal }));

export const post = (path, body) =>
  answer(fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
