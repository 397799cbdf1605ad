// The page that compares up to eight jobs: results, differing fields of the specs, and overlaid curves.

import { get, isTransient } from "./api.js";
import { makeChart } from "./chart.js";
import { retryWhileUnavailable } from "./connection.js";
import { $, el, setText } from "./dom.js";
import { evalNames, number, percent, shortId, titleOf } from "./format.js";
import { pointsOf } from "./metrics.js";

const MAX_JOBS = 8;
const RESULTS = [
  ["Held-out accuracy", "eval/accuracy", percent],
  ["Pairs left out of it", "eval/left_out", percent],
  ["Above this many tokens", "eval/max_length", number],
  ["Before training", "eval_before/accuracy", percent],
  ["Held-out loss", "eval/loss", number],
];

export async function start(show) {
  const ids = [...new Set((new URLSearchParams(location.search).get("jobs") ?? "").split(",").filter(Boolean))].slice(0, MAX_JOBS);
  const runs = (await Promise.all(ids.map((id) => retryWhileUnavailable(() => load(id))))).filter(Boolean);
  await offerMore(runs.map(({ job }) => job.id));
  const notes = [runs.length < ids.length && "Jobs that do not exist are left out.", runs.length < 2 && "Add jobs, up to eight."];
  setText($("compare-state"), notes.filter(Boolean).join(" "));
  showResults(runs);
  showCurves(runs);
  show();
}

async function load(id) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  try {
    const [job, metrics] = await Promise.all([get(path), get(`${path}/metrics?resolution=500`)]);
    return { job, columns: metrics.columns };
  } catch (error) {
    if (isTransient(error) || error.status === 401) throw error;
    return null;
  }
}

async function offerMore(ids) {
  const jobs = (await retryWhileUnavailable(() => get("/v1/jobs?limit=100"))).data.filter((job) => !ids.includes(job.id));
  $("add").replaceChildren(...jobs.map((job) => el("option", { value: job.id }, `${titleOf(job)} (${job.status})`)));
  $("add-form").hidden = ids.length >= MAX_JOBS || jobs.length === 0;
  $("add-form").addEventListener("submit", (event) => {
    event.preventDefault();
    location.assign(`/compare?jobs=${[...ids, $("add").value].join(",")}`);
  });
}

/** Returns the titles of jobs; jobs of the same name have their ids too. */
function uniqueTitles(runs) {
  const titles = runs.map(({ job }) => titleOf(job));
  const isShared = (title) => titles.filter((other) => other === title).length > 1;
  return runs.map(({ job }, place) => (isShared(titles[place]) ? `${titles[place]} ${shortId(job.id)}` : titles[place]));
}

function showResults(runs) {
  const names = uniqueTitles(runs);
  const link = ({ job }, place) => el("th", { scope: "col" }, el("a", { href: `/jobs/${job.id}` }, names[place]));
  $("result-head").replaceChildren(el("tr", {}, el("th", { scope: "col" }, "Job"), ...runs.map(link)));
  const row = (title, texts) => el("tr", {}, el("th", { scope: "row" }, title), ...texts.map((text) => el("td", {}, text)));
  const rows = [row("Status", runs.map(({ job }) => job.status))];
  const named = evalNames(runs.flatMap(({ columns }) => Object.keys(columns)));
  const results = [...RESULTS, ...named.map((name) => [`Accuracy on ${name}`, `eval_${name}/accuracy`, percent])];
  for (const [title, name, format] of results) rows.push(row(title, runs.map(({ columns }) => format(pointsOf(columns, name).at(-1)?.[1]))));
  const specs = runs.map(({ job }) => flat(job.spec));
  for (const field of new Set(specs.flatMap((spec) => Object.keys(spec)))) {
    const values = specs.map((spec) => spec[field] ?? "–");
    if (new Set(values).size > 1) rows.push(row(field, values.map((value) => (/^(ds|job)_[0-9a-f]{32}$/.test(value) ? shortId(value) : value))));
  }
  $("result-rows").replaceChildren(...rows);
}

/** Returns the fields of a spec as texts, by their paths. */
function flat(value, prefix = "") {
  const found = {};
  for (const [key, item] of Object.entries(value)) {
    const isGroup = typeof item === "object" && item !== null && !Array.isArray(item);
    Object.assign(found, isGroup ? flat(item, `${prefix}${key}.`) : { [`${prefix}${key}`]: item === null ? "–" : String(item) });
  }
  return found;
}

function showCurves(runs) {
  const metrics = [...new Set(runs.flatMap(({ columns }) => Object.keys(columns)))].filter((name) => name !== "step").sort();
  const names = uniqueTitles(runs);
  $("metric").replaceChildren(...metrics.map((name) => el("option", { value: name }, name)));
  $("metric").value = ["train/loss", "eval/accuracy", ...metrics].find((name) => metrics.includes(name)) ?? "";
  $("metric").addEventListener("change", draw);
  draw();

  function draw() {
    const metric = $("metric").value;
    if (!metric) return;
    const chart = makeChart({ title: metric, format: number });
    $("charts").replaceChildren(chart.node);
    const lines = runs.map(({ columns }, place) => ({ name: names[place], place, points: pointsOf(columns, metric) }));
    chart.update(lines, Math.max(...runs.map(({ job }) => job.progress.total_steps ?? 0)));
  }
}
