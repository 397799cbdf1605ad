// The form that uploads a dataset, and the errors of an invalid file.

import { Problem, upload } from "./api.js";
import { $, el, setText } from "./dom.js";
import { bytes } from "./format.js";

const TYPES = {
  jsonl: "application/x-ndjson",
  ndjson: "application/x-ndjson",
  json: "application/json",
  csv: "text/csv",
  tsv: "text/tab-separated-values",
  parquet: "application/vnd.apache.parquet",
  arrow: "application/vnd.apache.arrow.file",
  feather: "application/vnd.apache.arrow.file",
};
const PACKED = /\.(gz|xz|bz2|zst)$/;

export function startUpload() {
  $("upload-form").addEventListener("submit", send);
  $("upload-file").addEventListener("change", () => {
    const file = $("upload-file").files[0];
    if (file) $("upload-name").value = file.name.slice(0, 128);
  });
}

async function send(event) {
  event.preventDefault();
  const file = $("upload-file").files[0];
  const button = $("upload-button");
  button.disabled = true;
  $("upload-problems").replaceChildren();
  setText($("upload-state"), `Uploading ${bytes(file.size)}. The service checks every line…`);
  try {
    const dataset = await upload(`/v1/datasets?${query()}`, file, typeOf(file.name));
    location.assign(`/datasets/${dataset.id}`);
  } catch (error) {
    setText($("upload-state"), error instanceof Problem ? "The file was rejected. Nothing was stored." : error.message);
    showProblems(error);
    button.disabled = false;
  }
}

function query() {
  const found = new URLSearchParams({ on_invalid: $("upload-skip").checked ? "skip" : "refuse" });
  if ($("upload-name").value.trim()) found.set("name", $("upload-name").value.trim());
  if ($("upload-ignore").value.trim()) found.set("ignore_columns", $("upload-ignore").value.trim());
  for (const group of ["columns", "labels", "chat_template_kwargs"]) {
    for (const [part, value] of pairsIn($(`upload-${group}`).value)) found.append(`${group}[${part}]`, value);
  }
  return found;
}

/** Returns the names and values of lines such as `prompt=question`. */
function pairsIn(text) {
  const lines = text.split("\n").filter((line) => line.includes("="));
  return lines.map((line) => [line.slice(0, line.indexOf("=")).trim(), line.slice(line.indexOf("=") + 1).trim()]);
}

function typeOf(name) {
  const ending = name.toLowerCase().replace(PACKED, "").split(".").at(-1);
  return TYPES[ending] ?? "application/octet-stream";
}

function showProblems(error) {
  if (!(error instanceof Problem)) return;
  const items = error.errors.map(({ loc, message, hint }) =>
    el("li", {}, el("code", {}, loc), ` ${message}`, ...(hint ? [el("span", { class: "muted" }, ` ${hint}`)] : [])),
  );
  $("upload-problems").replaceChildren(el("p", { class: "error", role: "alert" }, `${error.message} ${error.hint ?? ""}`), el("ul", {}, ...items));
}
