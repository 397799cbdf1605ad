// The page of datasets, with the first pairs of each.

import { get } from "./api.js";
import { setPages } from "./components.js";
import { repeat, retryWhileUnavailable } from "./connection.js";
import { $, el, setCode, setFacts, sync, timeAgo } from "./dom.js";
import { bytes, number, plural, shortId } from "./format.js";

const REFRESH_SECONDS = 10;
const PAIRS = 5;
const MORE_PAIRS = 50;

export async function start(show) {
  const after = new URLSearchParams(location.search).get("after");
  const query = new URLSearchParams({ limit: "25", ...(after && { after }) });
  setCode($("upload-curl"), uploadCommand());
  await repeat(REFRESH_SECONDS, async () => {
    const page = await get(`/v1/datasets?${query}`);
    $("empty").hidden = page.data.length > 0 || after !== null;
    sync($("list"), page.data, (dataset) => dataset.id, makeDataset);
    setPages(page, "/datasets", null, after !== null);
    show();
  });
}

function makeDataset(dataset) {
  const facts = el("dl", { class: "facts" });
  const pairs = el("ol", { class: "pairs" });
  const more = el("button", { type: "button" }, `Show up to ${MORE_PAIRS} pairs`);
  const summary = el(
    "summary",
    {},
    el("span", { class: "title" }, dataset.name ?? shortId(dataset.id)),
    el("span", { class: "muted" }, `${plural(dataset.pair_count, "pair")} · ${bytes(dataset.bytes)} · `, timeAgo(dataset.created_at)),
  );
  const node = el("details", { class: "card dataset" }, summary, facts, el("h2", {}, "First pairs"), pairs, more);
  setFacts(facts, [
    ["Id", el("code", {}, dataset.id)],
    ["Shape", dataset.row_form === "ranked" ? `${dataset.shape}, ranked replies` : dataset.shape],
    ["Pairs", `${dataset.format}, prompt ${dataset.prompt}${dataset.has_margin ? ", with margins" : ""}`],
    ["Slices", Object.entries(dataset.slices).map(([name, count]) => `${name} ${number(count)}`).join(", ")],
    ["Uploaded as", `${dataset.source_format}, ${bytes(dataset.upload_bytes)}`],
    ["Ignored columns", dataset.ignored_columns.join(", ")],
    ["Skipped rows", dataset.skipped.map((reason) => `${number(reason.count)} ${reason.code}${inLines(reason.lines)}`).join(", ")],
    ["Warnings", dataset.warnings.map(sentence).join("; ")],
    ["sha256", el("code", { class: "hash" }, dataset.sha256)],
  ]);
  const load = async (count) => {
    const preview = await retryWhileUnavailable(() => get(`/v1/datasets/${dataset.id}/preview?n=${count}`));
    pairs.replaceChildren(...preview.data.map(makePair));
    more.hidden = count > PAIRS || dataset.row_count <= PAIRS;
  };
  node.addEventListener("toggle", () => {
    if (node.open && !pairs.children.length) load(PAIRS);
  });
  more.addEventListener("click", () => load(MORE_PAIRS));
  return { node, update: () => {} };
}

function sentence({ message, lines }) {
  return `${message}${inLines(lines)}`;
}

function inLines(lines) {
  return lines.length ? ` (${lines.length === 1 ? "line" : "lines"} ${lines.join(", ")})` : "";
}

function makePair(pair) {
  const marks = [];
  if (pair.margin !== undefined) marks.push(`margin ${number(pair.margin)}`);
  if (pair.slice !== undefined) marks.push(pair.slice);
  return el(
    "li",
    {},
    ...(pair.prompt === undefined ? [] : [el("div", { class: "prompt" }, ...texts(pair.prompt))]),
    el("div", { class: "replies" }, ...makeReplies(pair)),
    ...(marks.length ? [el("p", { class: "muted" }, marks.join(" · "))] : []),
  );
}

/** Returns a section for each reply of a pair, or of a row of ranked replies. */
function makeReplies(row) {
  const section = (kind, title, reply) => el("section", { class: kind }, el("h3", {}, title), ...texts(reply));
  if (row.replies === undefined) {
    return [section("chosen", "Chosen", row.chosen), section("rejected", "Rejected", row.rejected)];
  }
  return row.replies.map(({ rank, reply }) => section(rank === 1 ? "chosen" : "rejected", `Rank ${rank}`, reply));
}

/** Returns paragraphs for a text or for the messages of a conversation. */
function texts(content) {
  if (typeof content === "string") return [el("p", { class: "text" }, content)];
  return content.map((message) => el("p", { class: "text" }, el("b", { class: "role" }, message.role), said(message)));
}

/** Returns the text of a message: its reasoning, its content and the tools that it calls. */
function said(message) {
  const calls = (message.tool_calls ?? []).map((call) => `${call.function.name}(${JSON.stringify(call.function.arguments)})`);
  return [message.reasoning_content, message.content, ...calls].filter((part) => part).join("\n");
}

function uploadCommand() {
  return `export PLAUDIT_API_KEY=plk_…
curl -H "Authorization: Bearer $PLAUDIT_API_KEY" -H "Content-Type: application/x-ndjson" \\
  -X POST -T preferences.jsonl "${location.origin}/v1/datasets?name=preferences"`;
}
