// The public API: the only thing that these pages talk to.

import { currentKey } from "./keys.js";

const SILENCE_MS = 45_000; // the service says something every 15 s

/** A refusal (RFC 9457). */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The service answered ${status}.`);
    this.status = status;
    this.title = problem.title ?? "Something went wrong";
    this.code = problem.code ?? "";
    this.hint = problem.hint ?? "";
  }
}

/** No answer at all. */
export class Away extends Error {}

/** Whether the same request may do better a little later. */
export function isPassing(error) {
  return error instanceof Away || (error instanceof Problem && (error.status >= 500 || error.status === 429));
}

/** An answer's document. */
export async function get(path) {
  return await read(await request(path), (response) => response.json());
}

export async function post(path) {
  return await read(await request(path, { method: "POST" }), (response) => response.json());
}

/** An answer's bytes. */
export async function getBlob(path) {
  return await read(await request(path), (response) => response.blob());
}

/**
 * A job's events above number `after`, as they come: `{id, type, data}`. Ends with the stream;
 * throws Away when the connection breaks or falls silent. EventSource would do this, but it sends
 * no Authorization header.
 */
export async function* stream(path, after) {
  const abort = new AbortController();
  let alarm;
  const heard = () => {
    clearTimeout(alarm);
    alarm = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  try {
    heard();
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
      heard();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      yield* blocks.map(parse).filter((event) => event.data !== undefined);
    }
  } finally {
    clearTimeout(alarm);
    abort.abort();
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers, Authorization: `Bearer ${currentKey()}` };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers });
  } catch {
    throw new Away("The service does not answer.");
  }
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({})));
}

async function read(source, how) {
  try {
    return await how(source);
  } catch {
    throw new Away("The connection broke.");
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
