// The page of an evaluation: its state, and the figures of each model.

import { get, post } from "./api.js";
import { deleteButton, setPill } from "./components.js";
import { retryWhileUnavailable } from "./connection.js";
import { $, el, setFacts, setOrHide, setText, timeAgo } from "./dom.js";
import { idInAddress, isFinished, number, percent, progressOf, shortId } from "./format.js";
import { makePair } from "./pairs.js";

const WAIT_SECONDS = 20;
const path = `/v1/evaluations/${idInAddress()}`;

export async function start(show) {
  deleteButton($("delete"), path, "Delete this evaluation with its scores?", "/evaluations");
  $("cancel").addEventListener("click", cancel);
  $("worst").addEventListener("toggle", () => retryWhileUnavailable(showWorst).catch(showActionError), { once: true });
  let evaluation = await retryWhileUnavailable(() => get(path));
  for (;;) {
    showEvaluation(evaluation);
    show();
    if (isFinished(evaluation)) return;
    evaluation = await retryWhileUnavailable(() => get(`${path}?wait=${WAIT_SECONDS}`));
  }
}

function showEvaluation(now) {
  const title = now.name ?? shortId(now.id);
  setText($("title"), title);
  document.title = `${title} · Plaudit`;
  setText($("evaluation-id"), now.id);
  setPill($("status"), now.status);
  setText($("step"), progressOf(now).text && `${progressOf(now).text} replies`);
  setFacts($("facts"), [
    ["Base model", now.base_model],
    ["Dataset", el("a", { href: `/datasets/${now.dataset}` }, shortId(now.dataset))],
    ["Benchmark", now.suite],
    ["Evaluations on these rows", number(now.dataset_uses)],
    ["Queued", timeAgo(now.queued_at)],
  ]);
  setOrHide($("failure"), now.failure && `${now.failure.detail} ${now.failure.hint}`);
  $("cancel").hidden = isFinished(now) || now.status === "cancelling";
  $("delete").hidden = !isFinished(now);
  $("result").hidden = now.result === null;
  if (now.result) showResult(now.result);
}

function showResult({ models, baselines }) {
  const rows = models.map(({ adapter, metrics }) => makeRow(nameOf(adapter), metrics));
  const others = Object.entries(baselines).map(([name, metrics]) => makeRow(`baseline: ${name}`, metrics));
  $("models").replaceChildren(...rows, ...others);
  $("details").replaceChildren(...models.filter(({ adapter }) => adapter.startsWith("ad_")).map(makeDetails));
}

function makeRow(name, { accuracy, margin, calibration }) {
  const cells = [percent(accuracy.value), interval(accuracy.interval), number(margin?.mean), number(calibration?.ece)];
  return el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((text) => el("td", { class: "number" }, text)));
}

function makeDetails({ adapter, metrics, suite, probes }) {
  const sections = [];
  if (suite) sections.push(table(`Benchmark ${suite.suite}`, Object.entries(suite.metrics ?? {}).map(([name, value]) => [name, figure(value)])));
  if (metrics.slices?.length) sections.push(table("Slices", metrics.slices.map(({ slice, accuracy }) => [slice, percent(accuracy.value)])));
  if (probes?.length) sections.push(table("Probes", probes.map((probe) => [`${probe.probe}${probe.is_suspicious ? " (suspicious)" : ""}`, `shift ${number(probe.shift)}`])));
  if (metrics.calibration?.bins) sections.push(calibration(metrics.calibration.bins));
  if (metrics.margin?.histogram) sections.push(histogram(metrics.margin.histogram));
  const link = el("a", { href: `/adapters/${adapter}` }, shortId(adapter));
  return el("section", { class: "card" }, el("h2", {}, "Adapter ", link), ...sections);
}

function table(title, rows) {
  const body = rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, value)));
  return el("div", {}, el("h3", {}, title), el("table", {}, el("tbody", {}, ...body)));
}

/** Shows for each bin of the predicted probability how often the model is right. */
function calibration(bins) {
  const rows = bins.map(({ confidence, accuracy, pairs }) => {
    const bar = el("progress", { max: "1", value: String(accuracy), "aria-label": `right in ${percent(accuracy)} where it predicts ${percent(confidence)}` });
    const cells = [el("td", { class: "wide" }, bar), el("td", { class: "number" }, percent(accuracy)), el("td", { class: "number" }, number(pairs))];
    return el("tr", {}, el("th", { scope: "row", class: "number" }, percent(confidence)), ...cells);
  });
  const head = el("tr", {}, ...["Predicted", "Right", "", "Pairs"].map((text) => (text ? el("th", { scope: "col" }, text) : el("td"))));
  return el("details", {}, el("summary", {}, "Calibration"), el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
}

/** Shows how many pairs have which margin; the chosen reply wins where it is above 0. */
function histogram({ edges, counts }) {
  const most = Math.max(...counts, 1);
  const rows = counts.map((count, index) => {
    const range = `${number(edges[index])} to ${number(edges[index + 1])}`;
    const bar = el("progress", { max: String(most), value: String(count), "aria-label": `${count} pairs with a margin from ${range}` });
    return el("tr", {}, el("th", { scope: "row", class: "number" }, range), el("td", { class: "wide" }, bar), el("td", { class: "number" }, number(count)));
  });
  return el("details", {}, el("summary", {}, "Margins"), el("table", {}, el("tbody", {}, ...rows)));
}

async function showWorst() {
  const { models } = await get(`${path}/worst-pairs`);
  const items = Object.entries(models).flatMap(([name, pairs]) =>
    pairs.map((pair) => {
      const item = makePair(pair);
      item.prepend(el("p", { class: "muted" }, `${nameOf(name)} · line ${pair.line} · chosen ${number(pair.chosen_score)}, rejected ${number(pair.rejected_score)}`));
      return item;
    }),
  );
  $("worst-pairs").replaceChildren(...(items.length ? items : [el("li", {}, "No pair is in the wrong order.")]));
}

async function cancel() {
  try {
    showEvaluation(await post(`${path}/cancel`));
  } catch (error) {
    showActionError(error);
  }
}

function showActionError(error) {
  setOrHide($("action-error"), `${error.message} ${error.hint ?? ""}`);
}

function nameOf(model) {
  return model.startsWith("ad_") ? shortId(model) : model;
}

function interval(bounds) {
  return bounds ? `${percent(bounds[0])} to ${percent(bounds[1])}` : "–";
}

function figure(value) {
  return number(typeof value === "object" && value !== null ? (value.value ?? null) : value);
}
