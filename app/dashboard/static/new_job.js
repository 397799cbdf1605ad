// The page that submits a job: a form from the spec's schema, with a dry run after every change.

import { ConnectionError, get, getAll, isTransient, keyFor, post, Problem } from "./api.js";
import { retryWhileUnavailable, throttled } from "./connection.js";
import { $, el, setFacts, setOrHide, setText } from "./dom.js";
import { bytes, duration, number, shortId, titleOf } from "./format.js";
import { makeSpecForm } from "./spec_form.js";

const DRY_RUN_SECONDS = 0.8;
const RETRY_SECONDS = 5;
const parameters = new URLSearchParams(location.search);
let form = null;
let parent = null;
let runs = 0;

export async function start(show) {
  const [document, models, datasets] = await retryWhileUnavailable(() =>
    Promise.all([get("/openapi.json"), get("/v1/base-models"), getAll("/v1/datasets")]),
  );
  if (parameters.has("clone")) parent = await retryWhileUnavailable(() => get(`/v1/jobs/${encodeURIComponent(parameters.get("clone"))}`));
  const chosen = parent?.spec ?? { train_dataset: parameters.get("dataset") };
  form = makeSpecForm(document, {
    base_model: models.data.map((model) => [model.id, model.id]),
    train_dataset: datasetChoices(datasets, chosen.train_dataset),
  });
  $("spec").replaceChildren(form.node);
  form.fill(chosen);
  setText($("title"), parent ? `Clone of ${titleOf(parent)}` : "New job");
  $("from-checkpoint-row").hidden = parent === null;
  const dryRunSoon = throttled(DRY_RUN_SECONDS, dryRun);
  for (const change of ["input", "change"]) $("spec").addEventListener(change, dryRunSoon);
  $("spec-form").addEventListener("submit", submit);
  addEventListener("pageshow", () => ($("submit").disabled = false)); // back from the page of the job
  show();
  await dryRun();
}

function datasetChoices(datasets, chosen) {
  const choices = datasets.map((dataset) => [dataset.id, `${dataset.name ?? shortId(dataset.id)} (${number(dataset.pair_count)} pairs)`]);
  if (chosen && !datasets.some(({ id }) => id === chosen)) choices.push([chosen, shortId(chosen)]);
  return choices;
}

/** Shows what the spec would run, unless a later change already asked again. */
async function dryRun() {
  const run = ++runs;
  const spec = readSpec();
  if (spec === null) return;
  if (!spec.base_model || !spec.train_dataset) {
    showPlan(null);
    setText($("dry-run-state"), "Choose a base model and a dataset.");
    return;
  }
  setText($("dry-run-state"), "Checking…");
  try {
    const preview = await post("/v1/jobs?dry_run=true", spec);
    if (run !== runs) return;
    showProblems([]);
    showPlan(preview);
    setText($("dry-run-state"), "The spec is valid.");
  } catch (error) {
    if (run !== runs) return;
    showPlan(null);
    showFailure(error, "It is checked again soon.");
    // A worker may still be downloading the base model.
    if (isTransient(error)) setTimeout(() => run === runs && dryRun(), RETRY_SECONDS * 1000);
  }
}

function readSpec() {
  try {
    return form.read();
  } catch (error) {
    setText($("dry-run-state"), error.message);
    return null;
  }
}

async function submit(event) {
  event.preventDefault();
  const spec = readSpec();
  if (spec === null) return;
  $("submit").disabled = true;
  try {
    const [path, body] = parent ? [`/v1/jobs/${parent.id}/clone`, cloneOf()] : ["/v1/jobs", spec];
    const job = await post(path, body, keyFor(body));
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    showFailure(error, "Submit it again: it is queued only once.");
    $("submit").disabled = false;
  }
}

/** Returns the body of a clone: the fields that differ from the parent's. */
function cloneOf() {
  return { from_checkpoint: $("from-checkpoint").checked, overrides: form.changes(parent.spec) };
}

function showFailure(error, next) {
  if (error instanceof ConnectionError) return setText($("dry-run-state"), `${error.message} ${next}`);
  if (!(error instanceof Problem)) throw error;
  const rest = showProblems(error.errors);
  setText($("dry-run-state"), error.errors.length ? "Some fields are invalid." : `${error.message} ${error.hint ?? ""}`);
  return setOrHide($("other-problems"), rest.map(({ loc, message, hint }) => `${loc}: ${message} ${hint ?? ""}`).join(" "));
}

function showProblems(problems) {
  setOrHide($("other-problems"), "");
  return form.showProblems(problems);
}

function showPlan(preview) {
  $("preview").hidden = preview === null;
  if (preview === null) return;
  const memory = preview.reports.memory;
  const data = preview.reports.dataset;
  setFacts($("preview-facts"), [
    ["Steps", number(preview.steps)],
    ["Trainable parameters", `${number(preview.trainable_parameters)} of ${number(preview.total_parameters)}`],
    ["Estimated time", preview.estimated_seconds === null ? null : duration(preview.estimated_seconds)],
    ["Estimated memory", memory?.total_bytes ? bytes(memory.total_bytes) : null],
    ["Engine", preview.plan.engine],
    ["Longest reply with its prompt", data && `${number(Math.max(data.tokens.chosen?.max ?? 0, data.tokens.rejected?.max ?? 0))} tokens`],
  ]);
  $("preview-warnings").replaceChildren(...preview.warnings.map((warning) => el("li", {}, warning.message)));
  setText($("preview-plan"), JSON.stringify({ lora: preview.plan.lora, reward: preview.plan.reward }, null, 2));
}
