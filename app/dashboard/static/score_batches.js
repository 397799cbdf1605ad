// The page of score batches: a form for a new one, and the list with downloads.

import { get, getAll, keyFor, post } from "./api.js";
import { deleteButton, hideForm, offerDownload, setPages, setPill } from "./components.js";
import { repeat, retryWhileUnavailable } from "./connection.js";
import { $, el, setOrHide, setText, setTime, sync, timeAgo } from "./dom.js";
import { isFinished, progressOf, shortId, titleOf } from "./format.js";

const REFRESH_SECONDS = 5;

export async function start(show) {
  const after = new URLSearchParams(location.search).get("after");
  const query = new URLSearchParams({ limit: "25", ...(after && { after }) });
  await retryWhileUnavailable(fillForm).catch((error) => hideForm($("new-batch"), error));
  $("batch-form").addEventListener("submit", send);
  await repeat(REFRESH_SECONDS, async () => {
    const page = await get(`/v1/score/batches?${query}`);
    $("empty").hidden = page.data.length > 0;
    $("list").hidden = page.data.length === 0;
    sync($("rows"), page.data, (batch) => batch.id, makeRow);
    setPages(page, "/score-batches", null, after !== null);
    show();
  });
}

async function fillForm() {
  const [adapters, datasets] = await Promise.all([getAll("/v1/adapters"), getAll("/v1/datasets")]);
  const option = (value, text) => el("option", { value }, text);
  $("adapter").replaceChildren(...adapters.map(({ id, base_model }) => option(id, `${shortId(id)} (${base_model})`)));
  $("dataset").replaceChildren(...datasets.map(({ id, name }) => option(id, name ?? shortId(id))));
}

async function send(event) {
  event.preventDefault();
  const spec = { adapter: $("adapter").value, dataset: $("dataset").value, overlong: $("truncate").checked ? "truncate" : "drop" };
  if ($("batch-name").value.trim()) spec.name = $("batch-name").value.trim();
  await act(async () => {
    await post("/v1/score/batches", spec, keyFor(spec));
    location.assign("/score-batches");
  });
}

/** Runs an action, and shows why it failed. */
async function act(action) {
  try {
    await action();
    setOrHide($("action-error"), "");
  } catch (error) {
    const fields = (error.errors ?? []).map(({ message, hint }) => `${message} ${hint ?? ""}`);
    setOrHide($("action-error"), [error.message, ...fields].join(" "));
  }
}

function makeRow(batch) {
  const path = `/v1/score/batches/${batch.id}`;
  const button = (text, look) => el("button", { type: "button", class: look, "aria-label": `${text} ${titleOf(batch)}` }, text);
  const cell = (name, ...children) => el("td", { role: "cell", class: name }, ...children);
  const [pill, progress, failure] = [el("span"), el("span", { class: "number muted" }), el("p", { class: "error" })];
  const [download, cancel, remove] = [button("Download", ""), button("Cancel", "danger"), button("Delete", "danger")];
  const age = timeAgo(batch.queued_at);
  const node = el(
    "tr",
    { role: "row" },
    cell("", el("strong", {}, titleOf(batch))),
    cell("status", pill, " ", progress, failure),
    cell("", el("a", { href: `/adapters/${batch.adapter}` }, shortId(batch.adapter))),
    cell("", el("a", { href: `/datasets/${batch.dataset}` }, shortId(batch.dataset))),
    cell("number age", age),
    cell("", download, " ", cancel, remove),
  );
  const update = (now) => {
    setPill(pill, now.status);
    setText(progress, progressOf(now).text);
    setOrHide(failure, now.failure && `${now.failure.detail} ${now.failure.hint}`);
    setTime(age, now.queued_at);
    download.hidden = now.status !== "succeeded";
    cancel.hidden = isFinished(now) || now.status === "cancelling";
    remove.hidden = !isFinished(now);
  };
  offerDownload(download, $("download-state"), `${batch.id}.jsonl`, null, `${path}/scores`);
  cancel.addEventListener("click", () => act(async () => update(await post(`${path}/cancel`))));
  deleteButton(remove, path, "Delete these scores?", "/score-batches");
  return { node, update };
}
