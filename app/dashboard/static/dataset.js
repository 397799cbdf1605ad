// The page of a dataset: its recognised shape, the report for a base model, and the first pairs.

import { get, Problem } from "./api.js";
import { deleteButton } from "./components.js";
import { retryWhileUnavailable } from "./connection.js";
import { $, el, setFacts, setOrHide, setText, timeAgo } from "./dom.js";
import { assignments, bytes, idInAddress, number, percent, shortId } from "./format.js";
import { makePair } from "./pairs.js";

const PAIRS = 5;
const MORE_PAIRS = 50;
const path = `/v1/datasets/${idInAddress()}`;

export async function start(show) {
  const dataset = await retryWhileUnavailable(() => get(path));
  const title = dataset.name ?? shortId(dataset.id);
  setText($("title"), title);
  setText($("dataset-id"), dataset.id);
  document.title = `${title} · Plaudit`;
  $("train").href = `/jobs/new?dataset=${dataset.id}`;
  deleteButton($("delete"), path, "Delete this dataset? Jobs that trained on it keep their results.", "/datasets");
  setFacts($("facts"), facts(dataset));
  $("warnings").hidden = dataset.warnings.length === 0;
  $("warning-list").replaceChildren(...dataset.warnings.map((warning) => el("li", {}, sentence(warning))));
  show();
  await Promise.all([startReport(), startPairs(dataset)]);
}

function facts(dataset) {
  return [
    ["Shape", dataset.row_form === "ranked" ? `${dataset.shape}, ranked replies` : dataset.shape],
    ["Pairs", `${number(dataset.pair_count)} ${dataset.format}, prompt ${dataset.prompt}${dataset.has_margin ? ", with margins" : ""}`],
    ["Slices", Object.entries(dataset.slices).map(([name, count]) => `${name} ${number(count)}`).join(", ")],
    ["Uploaded as", `${dataset.source_format}, ${bytes(dataset.upload_bytes)}`],
    ["Uploaded", timeAgo(dataset.created_at)],
    ["Ignored columns", dataset.ignored_columns.join(", ")],
    ["Template variables", assignments(dataset.chat_template_kwargs)],
    ["Skipped rows", dataset.skipped.map((reason) => `${number(reason.count)} ${reason.code}${inLines(reason.lines)}`).join(", ")],
    ["sha256", el("code", { class: "hash" }, dataset.sha256)],
  ];
}

async function startPairs(dataset) {
  const load = async (count) => {
    const preview = await retryWhileUnavailable(() => get(`${path}/preview?n=${count}`));
    $("pairs").replaceChildren(...preview.data.map(makePair));
    $("more-pairs").hidden = count > PAIRS || dataset.row_count <= PAIRS;
  };
  $("more-pairs").addEventListener("click", () => load(MORE_PAIRS));
  await load(PAIRS);
}

async function startReport() {
  const models = (await retryWhileUnavailable(() => get("/v1/base-models"))).data;
  $("report-model").replaceChildren(...models.map((model) => el("option", { value: model.id }, model.id)));
  $("report-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("make-report").disabled = true;
    setText($("report-state"), "A worker reads the dataset…");
    try {
      const parameters = new URLSearchParams({ base_model: $("report-model").value });
      // A worker may be busy, or still be downloading the base model.
      const { report } = await retryWhileUnavailable(() => get(`${path}/report?${parameters}`));
      showReport(report);
      setText($("report-state"), "");
    } catch (error) {
      setText($("report-state"), error instanceof Problem ? `${error.message} ${error.hint}` : error.message);
    }
    $("make-report").disabled = false;
  });
}

function showReport(report) {
  $("report").hidden = false;
  const longer = report.longer_is_better;
  setFacts($("report-facts"), [
    ["Pairs", number(report.rows)],
    ["Prompts", number(report.prompts)],
    ["Maximum length", `${number(report.max_length)} tokens`],
    ["The longer reply is the chosen one", longer === null ? null : `${percent(longer)} of the pairs`],
  ]);
  const found = Object.entries(report.findings ?? {}).filter(([, { count }]) => count > 0);
  setOrHide($("no-findings"), found.length ? "" : "No duplicates, contradictions or other problems were found.");
  $("findings").replaceChildren(
    ...found.map(([name, { count, lines }]) => el("li", {}, `${name.replaceAll("_", " ")}: ${number(count)}${inLines(lines.slice(0, 10))}`)),
  );
  const columns = ["mean", "p50", "p90", "p99", "max"];
  $("token-rows").replaceChildren(
    ...Object.entries(report.tokens ?? {}).map(([name, lengths]) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, name),
        ...columns.map((column) => el("td", { class: "number" }, lengths[column] === undefined ? "–" : number(Math.round(lengths[column])))),
      ),
    ),
  );
}

function sentence({ message, lines }) {
  return `${message}${inLines(lines)}`;
}

function inLines(lines) {
  return lines.length ? ` (${lines.length === 1 ? "line" : "lines"} ${lines.join(", ")})` : "";
}
