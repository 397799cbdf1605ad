// One job, live: its events stream in, and each of them has the rest asked for again.

import { get, isPassing, post, stream } from "./api.js";
import { persistently, sleep, throttled } from "./connection.js";
import { $, el, setFacts, setOrHide, setText, sync, timeAgo } from "./dom.js";
import { duration, isOver, number, progressOf, shortId, titleOf } from "./format.js";
import { showNumbers } from "./numbers.js";
import { offerDownload, setCertificate, setPill } from "./parts.js";
import { showPlan } from "./plan.js";

const REFRESH_SECONDS = 1;
const SHOWN_EVENTS = 300;
const LOG_PIECES = 200;
const PHASES = ["fetching", "checking", "tokenizing", "training", "evaluating", "saving", "verifying", "publishing"];
const QUESTIONS = { cancel: "Cancel this job? A cancelled job never runs again; a clone of it may." };

const path = `/v1/jobs/${encodeURIComponent(decodeURIComponent(location.pathname.split("/")[2]))}`;
const events = []; // newest first
let job = null;
let isAdapterShown = false;

export async function start(show) {
  // One after the other: an older answer must not replace a newer one.
  let last = Promise.resolve();
  const refresh = () => (last = last.catch(() => {}).then(load));
  const refreshSoon = throttled(REFRESH_SECONDS, () => refresh().catch(() => {})); // the stream fails, too
  listen(refresh);
  for (;;) {
    await persistently(refresh);
    show();
    const isLast = isOver(job);
    try {
      for await (const event of stream(`${path}/events`, events[0]?.id ?? 0)) {
        hear(event);
        refreshSoon();
      }
      if (isLast) return;
    } catch (error) {
      if (!isPassing(error)) throw error;
    }
    await sleep(REFRESH_SECONDS);
  }
}

async function load() {
  const [now, metrics] = await Promise.all([get(path), get(`${path}/metrics?resolution=500`)]);
  showJob(now);
  showNumbers(now, metrics.columns);
  showPlan(now);
  await Promise.all([showAdapter(now), showLogs()]);
}

function hear(event) {
  if (event.id === null) {
    showProgress({ ...job, progress: event.data });
    return;
  }
  events.unshift(event.data);
  events.length = Math.min(events.length, SHOWN_EVENTS);
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
  sync($("labels"), labels, ([name]) => name, () => {
    const node = el("span", { class: "label" });
    return { node, update: ([name, value]) => setText(node, `${name}: ${value}`) };
  });
  showProgress(now);
  setFacts($("run"), runFacts(now));
  $("failure").hidden = !now.failure;
  if (now.failure) {
    const { code, category, step, detail, hint } = now.failure;
    setText($("failure-title"), `Failed: ${code.replaceAll("_", " ")}`);
    setText($("failure-detail"), detail || `A failure of the kind "${category}", at step ${number(step)}.`);
    setText($("failure-hint"), hint);
  }
  $("warnings").hidden = now.warnings.length === 0;
  $("warning-list").replaceChildren(...now.warnings.map((warning) => el("li", {}, warning.message)));
  $("pause").hidden = !["queued", "running"].includes(now.status);
  $("resume").hidden = now.status !== "paused";
  $("cancel").hidden = isOver(now) || now.status === "cancelling";
}

function showProgress(now) {
  const { text, share } = progressOf(now);
  setPill($("status"), now.status);
  setText($("step"), text && `step ${text}`);
  const left = now.progress.seconds_left;
  const isMoving = now.status === "running" && left !== null;
  setText($("left"), isMoving ? (left > 0 ? `about ${duration(left)} left` : "finishing") : waiting(now));
  const isVague = now.status === "running" && share === null;
  $("bar").hidden = share === null && !isVague;
  if (isVague) $("bar").removeAttribute("value");
  else $("bar").value = share ?? 0;
  showPhases(now);
  const shown = now.status === "running" && share !== null ? `${Math.floor(share * 100)} %` : now.status;
  document.title = `${shown} · ${titleOf(now)} · Plaudit`;
}

function waiting(now) {
  return now.status === "queued" ? "waits for a worker" : "";
}

function showPhases(now) {
  const place = PHASES.indexOf(now.phase);
  $("phases").hidden = now.status !== "running" || place < 0;
  sync($("phases"), PHASES, (phase) => phase, (phase) => {
    const node = el("li", {}, phase);
    return {
      node,
      update: () => {
        const at = PHASES.indexOf(phase);
        node.className = at < place ? "done" : "";
        if (at === place) node.setAttribute("aria-current", "step");
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
    ["Took", now.started_at && now.finished_at && duration(seconds(now.started_at, now.finished_at))],
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
    if (isPassing(error)) throw error;
    return; // deleted, or the key may not read artifacts
  }
  isAdapterShown = true;
  $("adapter").hidden = false;
  setCertificate($("certificate"), adapter.certificate);
  $("adapter-link").href = `/adapters/${adapter.id}`;
  offerDownload($("download"), $("download-state"), `${adapter.id}.tar`, adapter.archive.bytes, `${address}/archive`);
}

async function showLogs() {
  if (!$("logs").open) return;
  const pieces = (await get(`${path}/logs?tail=${LOG_PIECES}`)).data;
  $("no-logs").hidden = pieces.length > 0;
  $("log-text").hidden = pieces.length === 0;
  setText($("log-text"), pieces.map((piece) => piece.text).join(""));
}

function listen(refresh) {
  $("logs").addEventListener("toggle", () => persistently(showLogs));
  for (const verb of ["pause", "resume", "cancel"]) {
    $(verb).addEventListener("click", async () => {
      if (QUESTIONS[verb] && !confirm(QUESTIONS[verb])) return;
      try {
        await post(`${path}/${verb}`);
        setOrHide($("action-error"), "");
        await refresh();
      } catch (error) {
        setOrHide($("action-error"), `${error.message} ${error.hint ?? ""}`);
      }
    });
  }
}
