// Entry point of every page: signs in, then loads the script of the page.

import { get, Problem } from "./api.js";
import { $, setOrHide, setText } from "./dom.js";
import { dropKey, findKey, keepKey, signOut } from "./keys.js";

const pages = {
  jobs: () => import("./jobs.js"),
  job: () => import("./job.js"),
  adapter: () => import("./adapter.js"),
  "new-job": () => import("./new_job.js"),
  compare: () => import("./compare.js"),
  adapters: () => import("./adapters.js"),
  admin: () => import("./admin.js"),
  evaluations: () => import("./evaluations.js"),
  evaluation: () => import("./evaluation.js"),
  "score-batches": () => import("./score_batches.js"),
  dataset: () => import("./dataset.js"),
  datasets: () => import("./datasets.js"),
  queue: () => import("./queue.js"),
  usage: () => import("./usage.js"),
};

async function start() {
  $("sign-out").addEventListener("click", signOut);
  $("sign-in-form").addEventListener("submit", signIn);
  const name = document.body.dataset.page;
  const hasKey = await findKey();
  if (!(name in pages)) {
    $("sign-out").hidden = !hasKey;
    return undefined; // public and complete without a script
  }
  if (!hasKey) return askForKey();
  $("sign-out").hidden = false;
  $("loading").hidden = false;
  const page = await pages[name]();
  await page.start(() => {
    $("loading").hidden = true;
    $("page").hidden = false;
  });
  return undefined;
}

function askForKey(reason) {
  showOnly("sign-in");
  setOrHide($("sign-in-reason"), reason);
  $("sign-out").hidden = true;
  $("api-key").focus();
}

async function signIn(event) {
  event.preventDefault();
  keepKey($("api-key").value.trim());
  try {
    await get("/v1/jobs?limit=1");
    location.reload();
  } catch (error) {
    dropKey();
    askForKey(error instanceof Problem && error.status === 403 ? `${error.message} ${error.hint}` : error.message);
    $("api-key").select();
  }
}

/** Shows an error that retrying does not fix. */
function showError(error) {
  if (!(error instanceof Problem)) {
    setText($("refusal-title"), "This page failed");
    setText($("refusal-detail"), "Reload the page. If it fails again, report what you did to the operator.");
    showOnly("refusal");
    throw error; // logs it to the console
  }
  if (error.status === 401) {
    dropKey();
    askForKey(error.message);
    return;
  }
  const isOfOne = location.pathname.split("/").length > 2; // a malformed id in the path is not found either
  const isMissing = error.status === 404 || (error.status === 422 && isOfOne);
  const problems = error.errors.map(({ message, hint }) => `${message}. ${hint ?? ""}`);
  setText($("refusal-title"), isMissing ? "Not found" : error.title);
  setText($("refusal-detail"), isMissing ? "It was deleted, never existed, or belongs to another tenant." : [error.message, ...problems].join(" "));
  setText($("refusal-hint"), isMissing ? "" : error.hint);
  showOnly("refusal");
}

function showOnly(id) {
  for (const other of ["sign-in", "refusal", "loading", "page"]) $(other).hidden = other !== id;
}

start().catch(showError);
