// Retries while the service is unavailable, with a banner that tells the user.

import { isTransient } from "./api.js";
import { $, setText } from "./dom.js";

const MAX_WAIT_SECONDS = 15;

/** Returns the result of `task`, retrying for as long as the service is unavailable. */
export async function retryWhileUnavailable(task) {
  for (let tries = 0; ; tries++) {
    try {
      const result = await task();
      if (tries > 0) $("banner").hidden = true;
      return result;
    } catch (error) {
      if (!isTransient(error)) throw error;
      await waitForRetry(Math.min(2 ** tries, MAX_WAIT_SECONDS), error);
    }
  }
}

/** Runs `task` now and `seconds` after the end of each run, while the page is visible. */
export async function repeat(seconds, task) {
  for (;;) {
    await retryWhileUnavailable(task);
    await sleep(seconds);
    await untilVisible();
  }
}

export function sleep(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

/** Returns a function that runs `task` at most once in `seconds`, and always after its last call. */
export function throttled(seconds, task) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      task();
    }, seconds * 1000);
  };
}

async function waitForRetry(seconds, error) {
  $("banner").hidden = false;
  setText($("banner-text"), `${error.message} This page may be out of date; it retries every few seconds.`);
  await Promise.race([sleep(seconds), once($("banner-retry"), "click"), once(window, "online")]);
}

async function untilVisible() {
  while (document.hidden) await once(document, "visibilitychange");
}

function once(target, name) {
  return new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));
}
