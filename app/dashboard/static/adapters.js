// The page with the list of adapters.

import { get } from "./api.js";
import { setPages } from "./components.js";
import { repeat } from "./connection.js";
import { $, el, sync, timeAgo } from "./dom.js";
import { accuracyOf, bytes, percent, shortId } from "./format.js";

const REFRESH_SECONDS = 10;

export async function start(show) {
  const after = new URLSearchParams(location.search).get("after");
  const query = new URLSearchParams({ limit: "25", ...(after && { after }) });
  await repeat(REFRESH_SECONDS, async () => {
    const page = await get(`/v1/adapters?${query}`);
    $("empty").hidden = page.data.length > 0;
    $("list").hidden = page.data.length === 0;
    sync($("rows"), page.data, (adapter) => adapter.id, makeRow);
    setPages(page, "/adapters", null, after !== null);
    show();
  });
}

function makeRow({ id, base_model, metrics, bytes: size, created_at }) {
  const cell = (name, ...children) => el("td", { role: "cell", class: name }, ...children);
  const figure = (label, text) => el("td", { role: "cell", class: "number", "data-label": label }, text);
  const node = el(
    "tr",
    { role: "row" },
    cell("name", el("a", { href: `/adapters/${id}` }, shortId(id))),
    cell("model", base_model),
    figure("Held-out accuracy", accuracyOf(metrics)),
    figure("Before", percent(metrics["eval_before/accuracy"])),
    figure("Size", bytes(size)),
    cell("number age", timeAgo(created_at)),
  );
  return { node, update: () => {} };
}
