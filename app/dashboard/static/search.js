// Searches and sorts the list of jobs. Tags and statuses are filtered by the service; names, ids and base
// models are searched among the newest jobs.

import { get } from "./api.js";
import { $, setOrHide } from "./dom.js";

const PAGES = 5; // of a hundred jobs

export function startSearch({ text, tag, sort }, status) {
  $("search").value = tag || text;
  $("sort").value = sort;
  const submit = () => {
    const value = $("search").value.trim();
    const found = new URLSearchParams();
    if (status) found.set("status", status);
    if (value) found.set(value.includes(":") ? "tag" : "q", value);
    if ($("sort").value !== "age") found.set("sort", $("sort").value);
    location.assign(`/?${found}`);
  };
  $("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("sort").addEventListener("change", submit);
}

export function isSearch({ text, tag, sort }) {
  return Boolean(text || tag || sort !== "age");
}

/** Returns a page with all jobs that match, of the newest ones. */
export async function find({ text, tag }, status) {
  const query = new URLSearchParams({ limit: "100" });
  if (status) query.set("status", status);
  const [name, ...value] = tag.split(":");
  if (tag) query.set(`metadata[${name.trim()}]`, value.join(":").trim());
  const jobs = [];
  let page = { has_more: true, next: null };
  for (let count = 0; page.has_more && count < PAGES; count++) {
    if (page.next) query.set("after", page.next);
    page = await get(`/v1/jobs?${query}`);
    jobs.push(...page.data);
  }
  const isWanted = (job) => [job.name ?? "", job.id, job.base_model].some((field) => field.toLowerCase().includes(text.toLowerCase()));
  setOrHide($("search-note"), page.has_more ? `Only the newest ${jobs.length} jobs were searched.` : "");
  return { data: text ? jobs.filter(isWanted) : jobs, has_more: false, next: null };
}

export function sortJobs(jobs, sort, accuracyOf) {
  const orders = {
    name: (a, b) => (a.name ?? "").localeCompare(b.name ?? ""),
    accuracy: (a, b) => (accuracyOf(b) ?? -1) - (accuracyOf(a) ?? -1),
    status: (a, b) => a.status.localeCompare(b.status),
  };
  if (orders[sort]) jobs.sort(orders[sort]);
}
