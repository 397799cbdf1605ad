// The metrics of a job: charts and held-out accuracy.

import { makeChart } from "./chart.js";
import { $, el, setText } from "./dom.js";
import { evalNames, isFinished, number, percent } from "./format.js";

// A model that gives both replies the same score has an accuracy of 1/2 and a Bradley–Terry loss of
// ln 2.
export const CHARTS = [
  {
    title: "Loss",
    format: number,
    reference: { value: Math.LN2, name: "chance" },
    lines: { training: "train/loss", "held-out": "eval/loss" },
    before: "eval_before/loss",
  },
  {
    title: "Accuracy",
    format: (ratio) => percent(ratio, 0),
    range: [0, 1],
    reference: { value: 0.5, name: "chance" },
    lines: { training: "train/accuracy", "held-out": "eval/accuracy" },
    before: "eval_before/accuracy",
  },
  {
    title: "Margin",
    format: number,
    reference: { value: 0, name: "no preference" },
    lines: { training: "train/margin", "held-out": "eval/margin_mean" },
    before: "eval_before/margin_mean",
  },
];
const SHOWN_ABOVE = new Set(["step", ...CHARTS.flatMap(({ lines, before }) => [...Object.values(lines), before])]);
let charts = null;
const others = new Map();

export function showMetrics(job, columns) {
  if (!charts) {
    charts = CHARTS.map((options) => ({ options, chart: makeChart(options) }));
    $("charts").replaceChildren(...charts.map(({ chart }) => chart.node));
    $("more-charts").addEventListener("toggle", () => showOthers(job, columns));
  }
  const lastStep = job.progress.total_steps ?? 0;
  for (const { options, chart } of charts) chart.update(linesOf(columns, options), lastStep);
  $("no-metrics").hidden = charts.some(({ chart }) => !chart.node.hidden);
  setText($("no-metrics"), isFinished(job) ? "The job ended before its first step." : "Metrics appear here after the first step.");
  showAccuracy(columns, publishedStep(job, columns));
  showOthers(job, columns);
}

/** Returns the lines of a chart of one job. */
function linesOf(columns, { lines, before }) {
  return Object.entries(lines).map(([kind, name]) => ({
    kind,
    name: kind,
    points: [...(kind === "held-out" ? pointsOf(columns, before) : []), ...pointsOf(columns, name)],
  }));
}

/** Shows a chart for each further metric that changes over the steps. */
function showOthers(job, columns) {
  const names = Object.keys(columns).filter((name) => !SHOWN_ABOVE.has(name) && pointsOf(columns, name).length > 1);
  $("more-charts").hidden = names.length === 0;
  if (!$("more-charts").open) return;
  for (const name of names.sort()) {
    if (!others.has(name)) {
      others.set(name, makeChart({ title: name, format: number }));
      $("other-charts").append(others.get(name).node);
    }
    const kind = name.startsWith("eval") ? "held-out" : "training";
    others.get(name).update([{ kind, name: kind, points: pointsOf(columns, name) }], job.progress.total_steps ?? 0);
  }
}

/** The step whose model becomes the adapter: with early stopping that of the lowest loss. */
function publishedStep(job, columns) {
  const stopping = job.spec.training?.early_stopping;
  const group = stopping?.monitored_dataset ? `eval_${stopping.monitored_dataset}` : "eval";
  const losses = stopping ? pointsOf(columns, `${group}/loss`) : [];
  const lowest = Math.min(...losses.map(([, loss]) => loss));
  return losses.find(([, loss]) => loss === lowest)?.[0];
}

function showAccuracy(columns, published) {
  const latest = (name) => {
    const points = pointsOf(columns, name);
    return (points.find(([step]) => step === published && !name.startsWith("eval_before")) ?? points.at(-1))?.[1];
  };
  const [before, after] = [latest("eval_before/accuracy"), latest("eval/accuracy")];
  const named = evalNames(Object.keys(columns));
  const hasMain = before !== undefined || after !== undefined;
  $("accuracy").hidden = !hasMain && named.length === 0;
  $("accuracy-main").hidden = !hasMain;
  $("accuracy-named").hidden = named.length === 0;
  $("accuracy-rows").replaceChildren(...named.map((name) => namedRow(name, latest)));
  setText($("accuracy-before"), percent(before));
  setText($("accuracy-after"), after === undefined ? "…" : percent(after));
  const notes = [];
  const [low, high] = [latest("eval/accuracy_low"), latest("eval/accuracy_high")];
  if (low !== undefined) notes.push(`95 % interval ${percent(low)} to ${percent(high)}.`);
  const longer = latest("eval/length_baseline") ?? latest("eval_before/length_baseline");
  if (longer !== undefined) notes.push(`Always preferring the longer reply: ${percent(longer)}.`);
  const pairs = latest("eval/pairs") ?? latest("eval_before/pairs");
  if (pairs !== undefined) notes.push(`Measured on ${number(pairs)} held-out pairs.`);
  const [leftOut, limit] = ["left_out", "max_length"].map((name) => latest(`eval/${name}`) ?? latest(`eval_before/${name}`));
  if (leftOut) notes.push(`${percent(leftOut)} of them are left out: more than ${number(limit)} tokens, or not rendered.`);
  setText($("accuracy-note"), notes.join(" "));
}

function namedRow(name, latest) {
  const [before, after] = [`eval_before_${name}`, `eval_${name}`];
  const [pairs, leftOut] = ["pairs", "left_out"].map((figure) => latest(`${after}/${figure}`) ?? latest(`${before}/${figure}`));
  const figures = [percent(latest(`${before}/accuracy`)), percent(latest(`${after}/accuracy`)), number(pairs), percent(leftOut)];
  return el("tr", {}, el("td", {}, name), ...figures.map((text) => el("td", { class: "number" }, text)));
}

export function pointsOf(columns, name) {
  const values = columns[name] ?? [];
  return values.map((value, index) => [columns.step[index], value]).filter(([, value]) => value !== null);
}
