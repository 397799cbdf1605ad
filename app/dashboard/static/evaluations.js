// The page of evaluations: a form for a new one, and the list.

import { get, getAll, keyFor, post } from "./api.js";
import { hideForm, setPages, setPill } from "./components.js";
import { repeat, retryWhileUnavailable } from "./connection.js";
import { $, el, setOrHide, setText, setTime, sync, timeAgo } from "./dom.js";
import { number, shortId } from "./format.js";

const REFRESH_SECONDS = 5;

export async function start(show) {
  const after = new URLSearchParams(location.search).get("after");
  const query = new URLSearchParams({ limit: "25", ...(after && { after }) });
  await retryWhileUnavailable(fillForm).catch((error) => hideForm($("new-evaluation"), error));
  $("evaluation-form").addEventListener("submit", send);
  await repeat(REFRESH_SECONDS, async () => {
    const page = await get(`/v1/evaluations?${query}`);
    $("empty").hidden = page.data.length > 0;
    $("list").hidden = page.data.length === 0;
    sync($("rows"), page.data, (evaluation) => evaluation.id, makeRow);
    setPages(page, "/evaluations", null, after !== null);
    show();
  });
}

async function fillForm() {
  const [adapters, datasets, suites] = await Promise.all([getAll("/v1/adapters"), getAll("/v1/datasets"), get("/v1/suites")]);
  const option = (value, text) => el("option", { value }, text);
  $("adapters").replaceChildren(...adapters.map(({ id, base_model }) => option(id, `${shortId(id)} (${base_model})`)));
  $("dataset").replaceChildren(...datasets.map(({ id, name }) => option(id, name ?? shortId(id))));
  $("suite").append(...suites.data.map(({ id }) => option(id, id)));
}

async function send(event) {
  event.preventDefault();
  const spec = { adapters: [...$("adapters").selectedOptions].map(({ value }) => value), dataset: $("dataset").value };
  if ($("suite").value) spec.suite = $("suite").value;
  if ($("evaluation-name").value.trim()) spec.name = $("evaluation-name").value.trim();
  try {
    const evaluation = await post("/v1/evaluations", spec, keyFor(spec));
    location.assign(`/evaluations/${evaluation.id}`);
  } catch (error) {
    const fields = (error.errors ?? []).map(({ message, hint }) => `${message} ${hint ?? ""}`);
    setOrHide($("action-error"), [error.message, ...fields].join(" "));
  }
}

function makeRow(evaluation) {
  const cell = (name, ...children) => el("td", { role: "cell", class: name }, ...children);
  const pill = el("span");
  const age = timeAgo(evaluation.queued_at);
  const link = el("a", { href: `/evaluations/${evaluation.id}` }, evaluation.name ?? shortId(evaluation.id));
  const node = el(
    "tr",
    { role: "row" },
    cell("name", link),
    cell("status", pill),
    cell("model", evaluation.base_model),
    el("td", { role: "cell", class: "number", "data-label": "Adapters" }, number(evaluation.adapters.length)),
    cell("", el("a", { href: `/datasets/${evaluation.dataset}` }, evaluation.suite ?? shortId(evaluation.dataset))),
    cell("number age", age),
  );
  const update = (now) => {
    setPill(pill, now.status);
    setTime(age, now.queued_at);
    setText(link, now.name ?? shortId(now.id));
  };
  return { node, update };
}
