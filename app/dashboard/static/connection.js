// Keeping at it while the service is away, and saying so.

import { isPassing } from "./api.js";
import { $, setText } from "./dom.js";

const LONGEST_WAIT_SECONDS = 15;

/** What `task` resolves to, however long the service stays away; refusals are thrown on. */
export async function persistently(task) {
  for (let tries = 0; ; tries++) {
    try {
      const result = await task();
      if (tries > 0) $("banner").hidden = true;
      return result;
    } catch (error) {
      if (!isPassing(error)) throw error;
      await pause(Math.min(2 ** tries, LONGEST_WAIT_SECONDS), error);
    }
  }
}

/** Runs `task` now and `seconds` after each run, but not while nobody looks. */
export async function every(seconds, task) {
  for (;;) {
    await persistently(task);
    await sleep(seconds);
    await seen();
  }
}

export function sleep(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

/** Runs `task` at most once in `seconds`, and once more after the last call. */
export function throttled(seconds, task) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      task();
    }, seconds * 1000);
  };
}

async function pause(seconds, error) {
  $("banner").hidden = false;
  setText($("banner-text"), `${error.message} What you see may be old; trying again every few seconds.`);
  await Promise.race([sleep(seconds), once($("banner-retry"), "click"), once(window, "online")]);
}

async function seen() {
  while (document.hidden) await once(document, "visibilitychange");
}

function once(target, name) {
  return new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));
}
