// The page of a job. It streams the job's events and reloads the rest after each of them.

import { get, isTransient, post, stream } from "./api.js";
import { deleteButton, offerDownload, setCertificate, setPill } from "./components.js";
import { retryWhileUnavailable, sleep, throttled } from "./connection.js";
import { $, el, setFacts, setOrHide, setText, sync, timeAgo } from "./dom.js";
import { duration, idInAddress, isFinished, number, progressOf, shortId, titleOf } from "./format.js";
import { showMetrics } from "./metrics.js";
import { showNotes, startNotes } from "./notes.js";
import { showPlan } from "./plan.js";
import { makeTag } from "./tags.js";

const REFRESH_SECONDS = 1;
const MAX_EVENTS = 300;
const MAX_LOG_PIECES = 200;
// Held-out pairs are evaluated twice, before and after training.
const PHASES = ["fetching", "checking", "tokenizing", "evaluating before", "training", "evaluating", "saving", "verifying", "publishing"];
const TROUBLE = /error|exception|traceback|warning|out of memory/i;
const QUESTIONS = { cancel: "Cancel this job? It cannot be resumed, but you can clone it." };

const path = `/v1/jobs/${idInAddress()}`;
const events = []; // newest first
let job = null;
let lastEvent = 0;
let isAdapterShown = false;

export async function start(show) {
  // Load one after the other, so that an older response cannot overwrite a newer one.
  let last = Promise.resolve();
  const refresh = () => (last = last.catch(() => {}).then(load));
  // If loading fails, so does the stream below, which handles the error.
  const refreshSoon = throttled(REFRESH_SECONDS, () => refresh().catch(() => {}));
  addListeners(refresh);
  startNotes(path);
  deleteButton($("delete"), path, "Delete this job with its adapter, checkpoints, events, metrics and logs?", "/");
  for (;;) {
    await retryWhileUnavailable(refresh);
    show();
    const isLast = isFinished(job);
    try {
      for await (const event of stream(`${path}/events`, lastEvent)) {
        showEvent(event);
        refreshSoon();
      }
      if (isLast) return;
    } catch (error) {
      if (!isTransient(error)) throw error;
    }
    await sleep(REFRESH_SECONDS);
  }
}

async function load() {
  const [now, metrics] = await Promise.all([get(path), get(`${path}/metrics?resolution=500`)]);
  showJob(now);
  showMetrics(now, metrics.columns);
  showPlan(now);
  showNotes(now);
  await Promise.all([showAdapter(now), showLogs()]);
}

function showEvent(event) {
  if (event.id === null) {
    showProgress({ ...job, progress: event.data });
    return;
  }
  lastEvent = event.id;
  if (event.type === "phase") return; // shown by the list of phases
  events.unshift(event.data);
  events.length = Math.min(events.length, MAX_EVENTS);
  $("no-events").hidden = true;
  sync($("events"), events, (item) => item.id, makeEvent);
}

function makeEvent(event) {
  const node = el(
    "li",
    { value: event.id, class: `event ${event.type}` },
    el("span", { class: "message" }, event.message),
    el("span", { class: "muted" }, timeAgo(event.at), event.attempt > 1 ? ` · attempt ${event.attempt}` : ""),
  );
  return { node, update: () => {} };
}

function showJob(now) {
  job = now;
  setText($("title"), titleOf(now));
  setText($("job-id"), now.id);
  const labels = Object.entries(now.metadata);
  sync($("labels"), labels, ([name]) => name, makeTag);
  showProgress(now);
  setFacts($("run"), runFacts(now));
  $("failure").hidden = !now.failure;
  if (now.failure) {
    const { code, category, step, detail, hint } = now.failure;
    setText($("failure-title"), `Failed: ${code.replaceAll("_", " ")}`);
    setText($("failure-detail"), detail || `A failure of category "${category}" at step ${number(step)}.`);
    setText($("failure-hint"), hint);
  }
  $("warnings").hidden = now.warnings.length === 0;
  $("warning-list").replaceChildren(...now.warnings.map((warning) => el("li", {}, warning.message)));
  $("pause").hidden = !["queued", "running"].includes(now.status);
  $("resume").hidden = now.status !== "paused";
  $("clone").href = `/jobs/new?clone=${now.id}`;
  $("compare").href = `/compare?jobs=${now.id}`;
  $("delete").hidden = !isFinished(now);
  $("worst").hidden = now.status !== "succeeded" || !(now.spec.eval_dataset || Object.keys(now.spec.eval_datasets ?? {}).length);
  $("cancel").hidden = isFinished(now) || now.status === "cancelling";
}

function showProgress(now) {
  const { text, ratio } = progressOf(now);
  setPill($("status"), now.status);
  setText($("step"), text && (now.progress.rows_total ? text : `step ${text}`));
  setText($("left"), remainingTime(now));
  const isIndeterminate = now.status === "running" && ratio === null;
  $("bar").hidden = ratio === null && !isIndeterminate;
  if (isIndeterminate) $("bar").removeAttribute("value");
  else $("bar").value = ratio ?? 0;
  showPhases(now);
  const state = now.status === "running" && ratio !== null ? `${Math.floor(ratio * 100)} %` : now.status;
  document.title = `${state} · ${titleOf(now)} · Plaudit`;
}

function remainingTime(now) {
  if (now.status === "queued") return "waiting for a worker";
  const seconds = now.progress.seconds_left;
  if (now.status !== "running" || seconds === null) return "";
  return seconds > 0 ? `about ${duration(seconds)} left` : "finishing";
}

function showPhases(now) {
  const current = PHASES.indexOf(now.phase === "evaluating" && !now.progress.step ? "evaluating before" : now.phase);
  $("phases").hidden = now.status !== "running" || current < 0;
  sync($("phases"), PHASES, (phase) => phase, (phase) => {
    const node = el("li", {}, phase);
    return {
      node,
      update: () => {
        const index = PHASES.indexOf(phase);
        node.className = index < current ? "done" : "";
        if (index === current) node.setAttribute("aria-current", "step");
        else node.removeAttribute("aria-current");
      },
    };
  });
}

function runFacts(now) {
  const seconds = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;
  const { epoch } = now.progress;
  return [
    ["Base model", now.base_model],
    ["Attempt", now.attempt ? number(now.attempt) : null],
    ["Worker", now.worker],
    ["Epoch", epoch === null ? null : number(epoch)],
    ["Priority", now.priority ? number(now.priority) : null],
    ["Queued", timeAgo(now.queued_at)],
    ["Started", now.started_at && timeAgo(now.started_at)],
    ["Finished", now.finished_at && timeAgo(now.finished_at)],
    ["Duration", now.started_at && now.finished_at && duration(seconds(now.started_at, now.finished_at))],
    ["Cloned from", now.parent_job_id && el("a", { href: `/jobs/${now.parent_job_id}` }, shortId(now.parent_job_id))],
  ];
}

async function showAdapter(now) {
  if (!now.adapter_id || isAdapterShown) return;
  const address = `/v1/adapters/${now.adapter_id}`;
  let adapter;
  try {
    adapter = await get(address);
  } catch (error) {
    if (isTransient(error)) throw error;
    return; // it was deleted, or the key lacks the scope artifacts:read
  }
  isAdapterShown = true;
  $("adapter").hidden = false;
  setCertificate($("certificate"), adapter.certificate);
  $("adapter-link").href = `/adapters/${adapter.id}`;
  offerDownload($("download"), $("download-state"), `${adapter.id}.tar`, adapter.archive.bytes, `${address}/archive`);
  offerDownload($("report"), $("download-state"), `${now.id}.html`, null, `${path}/reports/full.html`);
}

/** Shows the pairs with the most negative margins; there is a report once the last evaluation ended. */
async function showWorst() {
  if (!$("worst").open || $("worst").hidden) return;
  let pairs = [];
  try {
    const found = (await get(`${path}/reports/worst_pairs`)).document;
    const named = Object.entries(found.eval_datasets ?? {});
    pairs = [...found.pairs, ...named.flatMap(([dataset, of]) => of.map((pair) => ({ ...pair, dataset })))];
    setText($("worst-note"), pairs.length ? "" : "No held-out pair is in the wrong order.");
  } catch (error) {
    if (isTransient(error)) throw error;
    setText($("worst-note"), error.hint || error.message);
  }
  const texts = (pair) => [pair.line, pair.margin, pair.chosen_score, pair.rejected_score].map(number);
  $("worst-rows").replaceChildren(
    ...pairs.map((pair) => el("tr", {}, ...texts(pair).map((text) => el("td", { class: "number" }, text)), el("td", {}, [pair.dataset, pair.slice].filter(Boolean).join(" · ") || "–"))),
  );
}

async function showLogs() {
  if (!$("logs").open) return;
  const pieces = (await get(`${path}/logs?tail=${MAX_LOG_PIECES}`)).data;
  $("no-logs").hidden = pieces.length > 0;
  $("log-text").hidden = pieces.length === 0;
  const text = pieces.map((piece) => piece.text).join("");
  setText($("log-text"), text);
  const errors = text.split("\n").filter((line) => TROUBLE.test(line));
  $("log-errors").hidden = errors.length === 0;
  setText($("log-error-text"), errors.join("\n"));
}

function addListeners(refresh) {
  for (const [id, load] of [["logs", showLogs], ["worst", showWorst]]) {
    $(id).addEventListener("toggle", () => retryWhileUnavailable(load).catch(showActionError));
  }
  for (const verb of ["pause", "resume", "cancel"]) {
    $(verb).addEventListener("click", async () => {
      if (QUESTIONS[verb] && !confirm(QUESTIONS[verb])) return;
      try {
        await post(`${path}/${verb}`);
        setOrHide($("action-error"), "");
        await refresh();
      } catch (error) {
        showActionError(error);
      }
    });
  }
}

function showActionError(error) {
  setOrHide($("action-error"), `${error.message} ${error.hint ?? ""}`);
}
