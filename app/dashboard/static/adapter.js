// The page of an adapter: parity certificate, metrics, files and downloads.

import { get, post } from "./api.js";
import { offerDownload, setCertificate } from "./components.js";
import { retryWhileUnavailable } from "./connection.js";
import { $, copyButton, el, setCode, setFacts, setText, timeAgo } from "./dom.js";
import { bytes, evalNames, idInAddress, number, percent, shortId } from "./format.js";

const NAMES = {
  accuracy: "Accuracy",
  accuracy_low: "Accuracy, 95 % interval from",
  accuracy_high: "Accuracy, 95 % interval to",
  accuracy_when_shorter: "Accuracy on pairs whose chosen reply is shorter",
  length_baseline: "Accuracy of always preferring the longer reply",
  length_spearman: "Rank correlation of score and length",
  loss: "Loss",
  margin_mean: "Margin, mean",
  margin_std: "Margin, standard deviation",
  ece: "Calibration error",
  brier: "Brier score",
  reward_mean: "Score, mean",
  reward_std: "Score, standard deviation",
  pairs: "Pairs",
  left_out: "Share of the pairs that are too long or not rendered, and left out",
  max_length: "Longest pair, in tokens",
};

export async function start(show) {
  const adapter = await retryWhileUnavailable(() => get(`/v1/adapters/${idInAddress()}`));
  setText($("adapter-id"), adapter.id);
  setText($("job-link"), shortId(adapter.job_id));
  $("job-link").href = `/jobs/${adapter.job_id}`;
  document.title = `Adapter ${shortId(adapter.id)} · Plaudit`;
  showCertificate(adapter);
  showFiles(adapter);
  showMetrics(adapter.metrics);
  const facts = Object.entries(adapter.reward_model).filter(([, value]) => typeof value !== "object");
  setFacts($("reward-model"), facts.map(([name, value]) => [name, el("code", {}, String(value))]));
  $("try-form").addEventListener("submit", (event) => tryReplies(event, adapter.id));
  show();
}

async function tryReplies(event, model) {
  event.preventDefault();
  $("try").disabled = true;
  setText($("try-result"), "Scoring. The first request loads the model…");
  const groups = [{ prompt: $("try-prompt").value, responses: [$("try-a").value, $("try-b").value] }];
  try {
    const [a, b] = (await post("/v1/score", { model, groups })).data[0].scores;
    const winner = a === b ? "Both are equally good." : `Reply ${a > b ? "A" : "B"} is better.`;
    setText($("try-result"), `Reply A: ${number(a)}. Reply B: ${number(b)}. ${winner}`);
  } catch (error) {
    const fields = (error.errors ?? []).map(({ message }) => message);
    setText($("try-result"), [error.message, ...fields, error.hint].filter(Boolean).join(" "));
  }
  $("try").disabled = false;
}

function showCertificate({ certificate, base_model, revision, created_at }) {
  setCertificate($("certificate"), certificate);
  setFacts($("certificate-facts"), [
    ["Base model", base_model],
    ["Revision", revision && el("code", { class: "hash" }, revision)],
    ["Created", timeAgo(created_at)],
    ["Allowed difference", allowedDifference(certificate)],
    ["Probe pairs", certificate.probes && number(certificate.probes.length)],
    ["Scored on", certificate.device && `${certificate.device}, ${certificate.dtype}`],
  ]);
}

function allowedDifference({ tolerance, noise_tolerance: noise }) {
  return tolerance && `${number(tolerance)} of 1 + |score|${noise ? `, or ${number(noise)}` : ""}`;
}

function showFiles({ id, files, archive, bytes: total }) {
  const path = `/v1/adapters/${encodeURIComponent(id)}`;
  offerDownload($("download"), $("download-state"), `${id}.tar`, archive.bytes, `${path}/archive`);
  setText($("archive"), `${files.length} files, ${bytes(total)}`);
  setCode(
    $("curl"),
    `curl -H "Authorization: Bearer $PLAUDIT_API_KEY" -o adapter.tar ${location.origin}${path}/archive\n` +
      `echo "${archive.sha256}  adapter.tar" | sha256sum --check`,
  );
  const rows = files.map((file) => {
    const button = el("button", { type: "button", class: "link" }, file.name);
    offerDownload(button, $("download-state"), file.name, file.bytes, `${path}/files/${encodeURIComponent(file.name)}`);
    const hash = el("code", { title: file.sha256 }, `${file.sha256.slice(0, 12)}…`);
    const copy = copyButton(`Copy the sha256 of ${file.name}`, () => file.sha256);
    return el("tr", {}, el("td", {}, button), el("td", { class: "number" }, bytes(file.bytes)), el("td", {}, hash, " ", copy));
  });
  $("files").replaceChildren(...rows);
}

function showMetrics(metrics) {
  const names = Object.keys(metrics);
  const rows = [...rowsOf(metrics, ""), ...evalNames(names).flatMap((name) => rowsOf(metrics, name))];
  $("no-metrics").hidden = rows.length > 0;
  $("metrics").hidden = rows.length === 0;
  $("metric-rows").replaceChildren(...rows);
}

/** Returns the rows of an evaluation dataset; "" is the one without a name. */
function rowsOf(metrics, dataset) {
  const suffix = dataset && `_${dataset}`;
  const found = Object.keys(metrics).filter((name) => name.startsWith(`eval${suffix}/`)).map((name) => name.slice(name.indexOf("/") + 1));
  const order = Object.keys(NAMES);
  const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  found.sort((a, b) => place(a) - place(b) || a.localeCompare(b));
  return found.map((name) => {
    const isRatio = /accuracy|baseline|left_out|^slice\//.test(name);
    const format = isRatio ? percent : number;
    const title = NAMES[name] ?? name.replace(/^slice\//, "Accuracy of slice ");
    const [before, after] = [metrics[`eval_before${suffix}/${name}`], metrics[`eval${suffix}/${name}`]];
    return el("tr", {}, el("th", { scope: "row" }, dataset ? `${dataset}: ${title}` : title), el("td", { class: "number" }, format(before)), el("td", { class: "number" }, format(after)));
  });
}
