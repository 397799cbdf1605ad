// Client of the public API, the only service that these pages use.

import { currentKey } from "./keys.js";

const NO_KEY = "The API key is not valid: it contains spaces or characters that no key has.";
const MAX_PAGES = 10; // of a hundred items
const STREAM_TIMEOUT_MS = 45_000; // the service sends a heartbeat every 15 s
let sent = { text: null, key: null };

addEventListener("pageshow", ({ persisted }) => {
  if (persisted) sent = { text: null, key: null }; // back on the page, the same body is meant again
});

/** An error response (RFC 9457). */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The service returned status ${status}.`);
    this.status = status;
    this.title = problem.title ?? "Something went wrong";
    this.code = problem.code ?? "";
    this.hint = problem.hint ?? "";
    this.errors = problem.errors ?? [];
  }
}

/** The service did not respond. */
export class ConnectionError extends Error {}

/** Returns whether the same request may succeed later. */
export function isTransient(error) {
  return error instanceof ConnectionError || (error instanceof Problem && (error.status >= 500 || error.status === 429));
}

/** Returns the JSON document of a response. */
export async function get(path) {
  return await read(await request(path), (response) => response.json());
}

/** Returns the newest items of a list, for a choice among them. */
export async function getAll(path) {
  const items = [];
  let page = { has_more: true, next: null };
  for (let count = 0; page.has_more && count < MAX_PAGES; count++) {
    page = await get(`${path}?${new URLSearchParams({ limit: "100", ...(page.next && { after: page.next }) })}`);
    items.push(...page.data);
  }
  return items;
}

/** Returns the idempotency key of a body: of the same body the same one, so that a second click or try has no effect. */
export function keyFor(body) {
  const text = JSON.stringify(body);
  if (sent.text !== text) {
    // crypto.randomUUID exists on https and localhost only.
    const random = crypto.getRandomValues(new Uint8Array(16));
    sent = { text, key: Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("") };
  }
  return sent.key;
}

/** Sends a POST with an optional JSON body. A key makes it safe to repeat. */
export async function post(path, body, idempotencyKey) {
  return await send("POST", path, body, { ...(idempotencyKey && { "Idempotency-Key": idempotencyKey }) });
}

/** Changes fields of a resource and returns it. */
export async function patch(path, changes) {
  return await send("PATCH", path, changes, {});
}

/** Sends the bytes of a file. */
export async function upload(path, file, type) {
  const options = { method: "POST", headers: { "Content-Type": type }, body: file };
  return await read(await request(path, options), (response) => response.json());
}

export async function remove(path) {
  await request(path, { method: "DELETE" });
}

/** Returns the bytes of a response. */
export async function getBlob(path) {
  return await read(await request(path), (response) => response.blob());
}

/**
 * Yields the events of a job with an id above `after` as they arrive: `{id, type, data}`. Ends with
 * the stream. Throws ConnectionError when the connection breaks or sends nothing for too long.
 * EventSource is not used because it cannot send an Authorization header.
 */
export async function* stream(path, after) {
  const abort = new AbortController();
  let timer;
  const restartTimer = () => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(), STREAM_TIMEOUT_MS);
  };
  try {
    restartTimer();
    const response = await request(`${path}?after=${after}`, {
      headers: { Accept: "text/event-stream" },
      signal: abort.signal,
    });
    if (response.status === 204) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await read(reader, () => reader.read());
      if (done) return;
      restartTimer();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      yield* blocks.map(parse).filter((event) => event.data !== undefined);
    }
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
}

async function send(method, path, body, headers) {
  const options = { method, headers };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  return await read(await request(path, options), (response) => response.json());
}

async function request(path, options = {}) {
  // A header cannot hold other characters, and fetch would fail as if the service did not respond.
  if (!/^[\x21-\x7e]*$/.test(currentKey() ?? "")) throw new Problem(401, { title: "Unauthorized", detail: NO_KEY });
  const headers = { ...options.headers, Authorization: `Bearer ${currentKey()}` };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers });
  } catch {
    throw new ConnectionError("The service does not respond.");
  }
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({})));
}

async function read(source, how) {
  try {
    return await how(source);
  } catch {
    throw new ConnectionError("The connection was interrupted.");
  }
}

function parse(block) {
  const event = { id: null, type: "message", data: undefined };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const [field, value] = [line.slice(0, colon), line.slice(colon + 1).trimStart()];
    if (field === "id") event.id = Number(value);
    if (field === "event") event.type = value;
    if (field === "data") event.data = JSON.parse(value);
  }
  return event;
}
