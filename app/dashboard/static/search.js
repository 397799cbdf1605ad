// Searches and sorts the list of jobs. The service finds the jobs; they are sorted here.

import { get } from "./api.js";
import { $, setOrHide, setText } from "./dom.js";

const SORTED_PAGES = 5; // of a hundred jobs

export const SORTS = ["age", "name", "accuracy", "status"];
const TAG = /^([A-Za-z0-9_.-]{1,64}):/; // what the service accepts as the name of a tag

export function startSearch({ text, tag, sort }, status) {
  $("search").value = tag || text;
  $("sort").value = sort;
  const submit = () => {
    const value = $("search").value.trim();
    const name = value === text ? undefined : TAG.exec(value)?.[1]; // a text was chosen to be no tag
    const of = name ? { text: "", tag: `${name}:${value.slice(name.length + 1).trim()}` } : { text: value, tag: "" };
    location.assign(addressOf({ ...of, sort: $("sort").value }, status));
  };
  setText($("order"), sort === "age" ? "newest first" : `by ${$("sort").selectedOptions[0].text}`);
  $("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("sort").addEventListener("change", submit);
}

/** Returns the address of the list of the jobs that are searched. */
export function addressOf({ text, tag, sort }, status) {
  const parameters = { status, q: text, tag, sort: sort === "age" ? "" : sort };
  return `/?${new URLSearchParams(Object.entries(parameters).filter(([, value]) => value))}`;
}

/** Returns the parameters with which the service finds the jobs. */
export function filterOf({ text, tag }, status) {
  const filter = new URLSearchParams();
  if (status) filter.set("status", status);
  if (text) filter.set("q", text);
  const [name, ...value] = tag.split(":");
  if (tag) filter.set(`metadata[${name}]`, value.join(":"));
  return filter;
}

/** Returns the newest jobs that match, to be sorted. */
export async function findAll(filter) {
  const query = new URLSearchParams([...filter, ["limit", "100"]]);
  const jobs = [];
  let page = { has_more: true, next: null };
  for (let count = 0; page.has_more && count < SORTED_PAGES; count++) {
    if (page.next) query.set("after", page.next);
    page = await get(`/v1/jobs?${query}`);
    jobs.push(...page.data);
  }
  const note = `The newest ${jobs.length} jobs are sorted. Older ones are not shown: search, or choose a status, to find them.`;
  setOrHide($("search-note"), page.has_more ? note : "");
  return jobs;
}

/** Sorts jobs in place; those without an accuracy come last. */
export function sortJobs(jobs, sort, accuracyOf) {
  const orders = {
    name: (a, b) => (a.name ?? "").localeCompare(b.name ?? ""),
    accuracy: (a, b) => (accuracyOf(b) ?? -1) - (accuracyOf(a) ?? -1),
    status: (a, b) => a.status.localeCompare(b.status),
  };
  if (orders[sort]) jobs.sort(orders[sort]);
}

/** Returns a page of sorted jobs; `next` is the number of jobs before the next page. */
export function slicePage(jobs, after, size) {
  const end = after + size;
  return { data: jobs.slice(after, end), has_more: end < jobs.length, next: String(end) };
}
