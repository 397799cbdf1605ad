// The page with the list of jobs.

import { get, Problem } from "./api.js";
import { setPages, setPill } from "./components.js";
import { repeat } from "./connection.js";
import { $, el, setCode, setText, setTime, sync, timeAgo } from "./dom.js";
import { accuracyFrom, accuracyOf, progressOf, shortId, titleOf } from "./format.js";
import { addressOf, filterOf, findAll, slicePage, sortJobs, SORTS, startSearch } from "./search.js";
import { makeTag } from "./tags.js";

const REFRESH_SECONDS = 3;
const STATUSES = ["running", "queued", "paused", "succeeded", "failed", "cancelled"];
const PAGE = 25;
const MAX_COMPARED = 8;
const MAX_ADAPTER_PAGES = 5; // of a hundred adapters
const MAX_SINGLE_ADAPTERS = 25;

/** Metrics by adapter id, kept because adapters never change. */
const metrics = new Map();
let mayReadAdapters = true;

export async function start(show) {
  const parameters = new URLSearchParams(location.search);
  const status = STATUSES.includes(parameters.get("status")) ? parameters.get("status") : null;
  const sort = SORTS.includes(parameters.get("sort")) ? parameters.get("sort") : "age";
  const search = { text: parameters.get("q") ?? "", tag: parameters.get("tag") ?? "", sort };
  const isSorted = sort !== "age";
  const chosen = { status, q: search.text, tag: search.tag, sort: isSorted && sort };
  const shown = Object.fromEntries(Object.entries(chosen).filter(([, value]) => value));
  const filter = filterOf(search, status);
  const query = new URLSearchParams([...filter, ["limit", PAGE]]);
  if (parameters.get("after")) query.set("after", parameters.get("after"));
  if (isSorted) {
    setText($("newest"), "First page");
    setText($("older"), "Next page");
  }
  startSearch(search, status);
  $("search-names").href = addressOf({ text: search.tag, tag: "", sort }, status);
  for (const link of $("filters").children) {
    const linked = STATUSES.find((name) => name === link.textContent) ?? null;
    link.href = addressOf(search, linked);
    if (linked === status) link.setAttribute("aria-current", "page");
  }
  setCode($("new-job-curl"), commands());
  await repeat(REFRESH_SECONDS, async () => {
    const page = isSorted ? await sortedPage(filter, sort, Number(parameters.get("after")) || 0) : await get(`/v1/jobs?${query}`);
    await loadAccuracies(page.data);
    sync($("rows"), page.data, (job) => job.id, makeRow);
    showEmptyOrPages(page, shown, parameters.has("after"));
    show();
  });
}

async function sortedPage(filter, sort, after) {
  const jobs = await findAll(filter);
  await loadAccuracies(jobs);
  sortJobs(jobs, sort, (job) => accuracyFrom(metrics.get(job.adapter_id) ?? {}));
  return slicePage(jobs, after, PAGE);
}

function showEmptyOrPages(page, filter, isOlder) {
  const isEmpty = page.data.length === 0;
  $("list").hidden = isEmpty;
  $("empty").hidden = !isEmpty;
  const isFirst = isEmpty && !(filter.status || filter.q || filter.tag) && !isOlder;
  setText($("empty-text"), isFirst ? "No jobs yet" : filter.q || filter.tag ? "No jobs match" : `No ${filter.status ?? "older"} jobs`);
  setText($("empty-hint"), isFirst ? "Submit a job with the commands below. This page updates automatically." : "");
  $("search-names").hidden = !isEmpty || !filter.tag; // a name may look like a tag
  if (isFirst) $("new-job").open = true;
  setPages(page, "/", filter, isOlder);
}

/** The ids of the jobs that are marked to be compared. */
const marked = new Set();

function makeMark(job) {
  const box = el("input", { type: "checkbox", "aria-label": `Compare ${titleOf(job)}` });
  box.addEventListener("change", () => {
    if (box.checked) marked.add(job.id);
    else marked.delete(job.id);
    $("compare").hidden = marked.size < 2;
    $("compare").href = `/compare?jobs=${[...marked].slice(0, MAX_COMPARED).join(",")}`;
    setText($("compare"), marked.size > MAX_COMPARED ? `Compare the first ${MAX_COMPARED} of ${marked.size}` : "Compare");
  });
  return box;
}

function makeRow(job) {
  const tags = el("span", { class: "labels" });
  const link = el("a", { href: `/jobs/${job.id}` });
  const id = el("code", { class: "muted" }, shortId(job.id));
  const pill = el("span");
  const phase = el("span", { class: "muted phase" });
  const bar = el("progress", { max: "1", "aria-label": "Progress" });
  const steps = el("span", { class: "muted number" });
  const model = el("td", { role: "cell", class: "model" });
  const accuracy = el("td", { role: "cell", class: "number accuracy" });
  const age = timeAgo(job.queued_at);
  const cell = (name, ...children) => el("td", { role: "cell", class: name }, ...children);
  const node = el(
    "tr",
    { role: "row" },
    cell("mark", makeMark(job)),
    cell("name", link, id, tags),
    cell("status", pill, phase),
    cell("progress", bar, steps),
    model,
    accuracy,
    cell("number age", age),
  );
  const update = (now) => {
    setText(link, titleOf(now));
    id.hidden = !now.name;
    sync(tags, Object.entries(now.metadata), ([name]) => name, makeTag);
    setPill(pill, now.status);
    setText(phase, now.status === "running" ? now.phase : "");
    const { text, ratio } = progressOf(now);
    bar.hidden = ratio === null;
    bar.value = ratio ?? 0;
    setText(steps, text);
    setText(model, now.base_model);
    setText(accuracy, accuracyOf(metrics.get(now.adapter_id) ?? {}));
    accuracy.classList.toggle("none", accuracy.textContent === "–");
    setTime(age, now.queued_at);
  };
  return { node, update };
}

/** Loads the held-out accuracies of jobs. The list of jobs has no metrics, but adapters do. */
async function loadAccuracies(jobs) {
  const unknown = () => jobs.filter((job) => job.adapter_id && !metrics.has(job.adapter_id));
  if (!mayReadAdapters || unknown().length === 0) return;
  const store = (adapter) => metrics.set(adapter.id, adapter.metrics);
  try {
    let page = { has_more: metrics.size === 0, next: null };
    for (let count = 0; page.has_more && unknown().length > 0 && count < MAX_ADAPTER_PAGES; count++) {
      page = await get(`/v1/adapters?${new URLSearchParams({ limit: "100", ...(page.next && { after: page.next }) })}`);
      page.data.forEach(store);
    }
    for (const job of unknown().slice(0, MAX_SINGLE_ADAPTERS)) store(await get(`/v1/adapters/${job.adapter_id}`));
  } catch (error) {
    if (!(error instanceof Problem) || error.status >= 500) throw error;
    if (error.status === 401) throw error;
    mayReadAdapters = error.status !== 403; // 403: no scope artifacts:read; 404: just deleted
  }
}

function commands() {
  const here = location.origin;
  return `export PLAUDIT_API_KEY=plk_…

curl -H "Authorization: Bearer $PLAUDIT_API_KEY" -H "Content-Type: application/x-ndjson" \\
  -X POST -T preferences.jsonl "${here}/v1/datasets?name=preferences"

curl -H "Authorization: Bearer $PLAUDIT_API_KEY" ${here}/v1/jobs --json '{
  "name": "my first reward model",
  "base_model": "all-minilm-l6-v2",
  "train_dataset": "ds_…",
  "eval_dataset": {"fraction": 0.1}
}'`;
}
