// Talks to Portero's HTTP API: JSON in and out, errors with words a person can use. It knows no
// screen; what a 401 means for the page is decided by whoever calls.

/** How long an answer may take before we say that Portero does not answer. */
const ANSWER_WAIT_MS = 15_000;

/** A failed request. `status` is the HTTP status, or 0 when there was no answer at all. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** One request. Returns the parsed body, or null where there is none. */
export async function call(method, path, body, wait = ANSWER_WAIT_MS) {
  const options = { method, credentials: "same-origin", cache: "no-store", headers: {} };
  options.signal = AbortSignal.timeout(wait);
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError(0, "Portero does not answer. Check the connection.");
  }
  const answer = await readJson(response);
  if (!response.ok) {
    throw new ApiError(response.status, answer?.error ?? `Portero answered ${response.status}.`);
  }
  return answer;
}

async function readJson(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

export const get = (path) => call("GET", path);
export const post = (path, body, wait) => call("POST", path, body, wait);
export const remove = (path) => call("DELETE", path);

/** Many changes in a row cause one fetch: `soon` asks for it, `cancel` takes that back. */
export function gather(fetchIt, pause) {
  let timer = 0;
  const soon = () => {
    timer ||= setTimeout(() => {
      timer = 0;
      fetchIt().catch(() => {}); // the next change, or the next visit, asks again
    }, pause);
  };
  const cancel = () => {
    clearTimeout(timer);
    timer = 0;
  };
  return { soon, cancel };
}
