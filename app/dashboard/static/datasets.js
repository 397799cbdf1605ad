// The page of datasets: upload, and the list.

import { get } from "./api.js";
import { setPages } from "./components.js";
import { repeat } from "./connection.js";
import { $, el, sync, timeAgo } from "./dom.js";
import { bytes, number, shortId } from "./format.js";
import { startUpload } from "./upload.js";

const REFRESH_SECONDS = 10;

export async function start(show) {
  const after = new URLSearchParams(location.search).get("after");
  const query = new URLSearchParams({ limit: "25", ...(after && { after }) });
  startUpload();
  await repeat(REFRESH_SECONDS, async () => {
    const page = await get(`/v1/datasets?${query}`);
    const isEmpty = page.data.length === 0;
    $("empty").hidden = !isEmpty || after !== null;
    if (!$("empty").hidden) $("upload").open = true;
    $("list").hidden = isEmpty;
    sync($("rows"), page.data, (dataset) => dataset.id, makeRow);
    setPages(page, "/datasets", null, after !== null);
    show();
  });
}

function makeRow(dataset) {
  const cell = (name, ...children) => el("td", { role: "cell", class: name }, ...children);
  const figure = (label, text) => el("td", { role: "cell", class: "number", "data-label": label }, text);
  const link = el("a", { href: `/datasets/${dataset.id}` }, dataset.name ?? shortId(dataset.id));
  const shape = dataset.row_form === "ranked" ? `${dataset.shape}, ranked replies` : dataset.shape;
  const warnings = dataset.warnings.length ? `${dataset.warnings.length}` : "–";
  const node = el(
    "tr",
    { role: "row" },
    cell("name", link, el("code", { class: "muted" }, shortId(dataset.id))),
    figure("Pairs", number(dataset.pair_count)),
    cell("model", `${shape}, ${dataset.format}`),
    figure("Size", bytes(dataset.upload_bytes)),
    figure("Warnings", warnings),
    cell("number age", timeAgo(dataset.created_at)),
  );
  return { node, update: () => {} };
}
