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
const GROUPS = ["columns", "labels", "chat_template_kwargs"]; // fields of names and values
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
  $("upload-problems").replaceChildren();
  const odd = GROUPS.flatMap((group) => linesOf(group).filter((line) => !line.includes("=")));
  if (odd.length) return setText($("upload-state"), `Write one name=value per line, not ${JSON.stringify(odd[0])}. Nothing was sent.`);
  button.disabled = true;
  setText($("upload-state"), `Uploading ${bytes(file.size)}. The service checks every line…`);
  try {
    const dataset = await upload(`/v1/datasets?${query()}`, file, typeOf(file.name));
    location.assign(`/datasets/${dataset.id}`);
  } catch (error) {
    setText($("upload-state"), error instanceof Problem ? "The file was rejected. Nothing was stored." : error.message);
    showProblems(error);
    button.disabled = false;
  }
  return undefined;
}

function query() {
  const found = new URLSearchParams({ on_invalid: $("upload-skip").checked ? "skip" : "refuse" });
  if ($("upload-name").value.trim()) found.set("name", $("upload-name").value.trim());
  if ($("upload-ignore").value.trim()) found.set("ignore_columns", $("upload-ignore").value.trim());
  for (const group of GROUPS) {
    for (const line of linesOf(group)) {
      const [part, ...value] = line.split("=");
      found.append(`${group}[${part.trim()}]`, value.join("=").trim());
    }
  }
  return found;
}

/** Returns the lines of a field, such as `prompt=question`. */
function linesOf(group) {
  return $(`upload-${group}`).value.split("\n").filter((line) => line.trim());
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
