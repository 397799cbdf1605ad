// What was measured while a job trained: the charts and the held-out accuracy.

import { makeChart } from "./chart.js";
import { $, setText } from "./dom.js";
import { isOver, number, percent } from "./format.js";

// A model that tells nothing apart gives both replies the same score: it is right in one case of
// two, and its Bradley–Terry loss is ln 2.
const CHARTS = [
  {
    title: "Loss",
    format: number,
    reference: { value: Math.LN2, name: "coin flip" },
    lines: { training: "train/loss", "held-out": "eval/loss" },
    before: "eval_before/loss",
  },
  {
    title: "Accuracy",
    format: (share) => percent(share, 0),
    range: [0, 1],
    reference: { value: 0.5, name: "coin flip" },
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
let charts = null;

export function showNumbers(job, columns) {
  if (!charts) {
    charts = CHARTS.map((about) => ({ about, chart: makeChart(about) }));
    $("charts").replaceChildren(...charts.map(({ chart }) => chart.node));
  }
  for (const { about, chart } of charts) {
    const lines = Object.entries(about.lines).map(([kind, name]) => ({
      kind,
      name: kind,
      points: [...(kind === "held-out" ? pointsOf(columns, about.before) : []), ...pointsOf(columns, name)],
    }));
    chart.update(lines, job.progress.total_steps ?? 0);
  }
  $("no-numbers").hidden = charts.some(({ chart }) => !chart.node.hidden);
  setText($("no-numbers"), isOver(job) ? "Not one step was done." : "Numbers appear here with the first step.");
  showAccuracy(columns);
}

function showAccuracy(columns) {
  const latest = (name) => pointsOf(columns, name).at(-1)?.[1];
  const [before, after] = [latest("eval_before/accuracy"), latest("eval/accuracy")];
  $("accuracy").hidden = before === undefined && after === undefined;
  setText($("accuracy-before"), percent(before));
  setText($("accuracy-after"), after === undefined ? "…" : percent(after));
  const notes = [];
  const [low, high] = [latest("eval/accuracy_low"), latest("eval/accuracy_high")];
  if (low !== undefined) notes.push(`95 % interval ${percent(low)} to ${percent(high)}.`);
  const longer = latest("eval/length_baseline") ?? latest("eval_before/length_baseline");
  if (longer !== undefined) notes.push(`Always preferring the longer reply: ${percent(longer)}.`);
  const pairs = latest("eval/pairs") ?? latest("eval_before/pairs");
  if (pairs !== undefined) notes.push(`${number(pairs)} pairs that training never saw.`);
  setText($("accuracy-note"), notes.join(" "));
}

function pointsOf(columns, name) {
  const values = columns[name] ?? [];
  return values.map((value, place) => [columns.step[place], value]).filter(([, value]) => value !== null);
}
