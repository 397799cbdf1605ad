// The messages of a webhook and their outcome, loaded when they are opened.

import { get } from "./api.js";
import { setPill } from "./components.js";
import { el, exactTime, timeAgo } from "./dom.js";
import { number } from "./format.js";

const COLUMNS = ["Time", "Event", "Status", "Attempts", "Response", "Last error"];

/** Returns the deliveries of a webhook as `details`; `act(run)` shows the error of a request. */
export function makeDeliveries(id, url, act) {
  const rows = el("tbody");
  const head = el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name))));
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Deliveries to ${url}` }, el("table", {}, head, rows));
  const none = el("p", { class: "muted" }, "No messages in the last 30 days.");
  const older = el("button", { type: "button" }, "Older messages");
  const refresh = el("button", { type: "button" }, "Refresh");
  const details = el("details", { class: "deliveries" }, el("summary", {}, "Deliveries"), none, table, refresh, " ", older);

  async function load(after) {
    const page = await get(`/v1/webhooks/${id}/deliveries?${new URLSearchParams({ limit: "20", ...(after && { after }) })}`);
    if (!after) rows.replaceChildren();
    rows.append(...page.data.map(makeRow));
    table.hidden = rows.children.length === 0;
    none.hidden = !table.hidden;
    older.hidden = !page.has_more;
    older.onclick = () => act(() => load(page.next));
  }

  table.hidden = older.hidden = true;
  refresh.addEventListener("click", () => act(() => load(null)));
  details.addEventListener("toggle", () => details.open && act(() => load(null)));
  return details;
}

function makeRow({ type, status, attempts, created_at, next_attempt_at, response_status, error }) {
  const pill = el("span");
  setPill(pill, status);
  const nextTime = next_attempt_at && new Date(next_attempt_at).toLocaleTimeString();
  const next = nextTime ? el("span", { class: "muted", title: exactTime(next_attempt_at) }, ` next ${nextTime}`) : "";
  const texts = [number(attempts), response_status === null ? "–" : String(response_status), error ?? "–"];
  return el("tr", {}, el("td", {}, timeAgo(created_at)), el("td", {}, type), el("td", {}, pill, next), ...texts.map((text) => el("td", {}, text)));
}
