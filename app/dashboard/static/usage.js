// The page with the usage of the tenant per day.

import { get } from "./api.js";
import { retryWhileUnavailable } from "./connection.js";
import { $, el } from "./dom.js";
import { bytes, duration, number } from "./format.js";

const PERIODS = ["7", "30", "366"];

export async function start(show) {
  const asked = new URLSearchParams(location.search).get("days");
  const days = PERIODS.includes(asked) ? asked : "30";
  for (const link of $("periods").children) {
    if (link.textContent === `${days} days`) link.setAttribute("aria-current", "page");
  }
  const { data } = await retryWhileUnavailable(() => get(`/v1/usage?days=${days}`));
  $("usage").hidden = data.length === 0;
  $("no-usage").hidden = data.length > 0;
  const sum = (field) => data.reduce((total, day) => total + day[field], 0);
  $("usage-rows").replaceChildren(...data.map((day) => row(day.day, day.device_seconds, bytes(day.stored_bytes), day.scored_tokens)));
  $("usage-sum").replaceChildren(row("Sum", sum("device_seconds"), "", sum("scored_tokens")));
  show();
}

function row(title, seconds, stored, tokens) {
  const texts = [duration(seconds), stored, number(tokens)];
  return el("tr", {}, el("th", { scope: "row" }, title), ...texts.map((text) => el("td", { class: "number" }, text)));
}
