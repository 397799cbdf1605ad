// The page of the queue: waiting jobs with the reason, and workers.

import { get } from "./api.js";
import { setPill } from "./components.js";
import { repeat } from "./connection.js";
import { $, el, setText, setTime, sync, timeAgo } from "./dom.js";
import { number, pageOf, plural, shortId } from "./format.js";

const REFRESH_SECONDS = 3;
const QUEUED_JOBS = "/v1/jobs?status=queued&limit=100";
const REASONS = {
  no_worker: "No worker of its queue is running",
  no_gpu: "No worker with a GPU is running",
  quota: "Your quota of running jobs is used up",
  backoff: "Its last attempt failed; it is retried soon",
  workers_busy: "All workers are busy",
  behind_priority: "Other jobs are ahead of it",
  next: "A worker is about to take it",
};

export async function start(show) {
  await repeat(REFRESH_SECONDS, async () => {
    // The queue contains ids only; the names of its jobs are in the list of jobs.
    const [queue, workers, jobs] = await Promise.all([get("/v1/queue"), get("/v1/workers"), get(QUEUED_JOBS)]);
    const names = new Map(jobs.data.map((job) => [job.id, job.name]));
    $("queue").hidden = queue.data.length === 0;
    $("no-queue").hidden = queue.data.length > 0;
    const items = queue.data.map((item) => ({ ...item, name: names.get(item.job_id) }));
    sync($("queue-rows"), items, (item) => item.job_id, makeRow);
    $("no-workers").hidden = workers.data.length > 0;
    sync($("workers"), workers.data, (worker) => worker.id, makeWorker);
    show();
  });
}

function makeRow(item) {
  const position = el("td", { class: "number" });
  const reason = el("td");
  const priority = el("td", { class: "number" });
  const since = timeAgo(item.queued_at);
  const link = el("a", { href: pageOf(item.job_id) });
  const node = el("tr", {}, position, el("td", {}, link), reason, priority, el("td", { class: "number" }, since));
  const update = (now) => {
    setText(position, number(now.position));
    setText(link, now.name ?? shortId(now.job_id));
    setText(reason, REASONS[now.reason] ?? now.reason);
    setText(priority, number(now.priority));
    setTime(since, now.queued_at);
  };
  return { node, update };
}

function makeWorker(worker) {
  const pill = el("span");
  const slots = el("span");
  const seen = timeAgo(worker.seen_at);
  const jobs = el("ul", { class: "plain" });
  const doctor = makeDoctor();
  const devices = worker.devices.map((device) => Object.values(device).map(String).join(", ")).join("; ");
  const versions = Object.entries(worker.versions).map(([name, version]) => `${name} ${version}`);
  const node = el(
    "li",
    { class: "card" },
    el("h3", {}, worker.host, " ", pill),
    el("p", {}, slots, ` · ${devices || "CPU"} · queue `, el("code", {}, worker.queue)),
    jobs,
    doctor.node,
    el("p", { class: "muted" }, "Started ", timeAgo(worker.started_at), ", last seen ", seen),
    el("p", { class: "muted" }, versions.join(" · ")),
  );
  const update = (now) => {
    setPill(pill, now.state);
    setText(slots, `${number(now.busy)} of ${plural(now.slots, "slot")} busy`);
    setTime(seen, now.seen_at);
    sync(jobs, now.jobs, (id) => id, makeJob);
    doctor.update(now.doctor ?? []);
  };
  return { node, update };
}

/** Shows the results of the checks of `plaudit doctor` at the start of the worker; failed ones come first. */
function makeDoctor() {
  const summary = el("summary");
  const list = el("ul", { class: "plain" });
  const node = el("details", { class: "doctor", hidden: true }, summary, list);
  const update = (results) => {
    const failed = results.filter(({ status }) => status === "failed");
    const text = failed.length ? `${plural(failed.length, "check")} of ${results.length} failed` : plural(results.length, "check") + " passed or left out";
    node.hidden = results.length === 0;
    setText(summary, `Doctor: ${text}`);
    const sorted = [...failed, ...results.filter((result) => !failed.includes(result))];
    sync(list, sorted, ({ check }) => check, makeCheck);
  };
  return { node, update };
}

function makeCheck({ check }) {
  const pill = el("span");
  const detail = el("span", { class: "muted" });
  const node = el("li", {}, pill, ` ${check} `, detail);
  const update = (now) => {
    setPill(pill, now.status.replace("_", " "));
    setText(detail, now.detail);
  };
  return { node, update };
}

function makeJob(id) {
  const node = el("li", {}, "Running ", el("a", { href: pageOf(id) }, el("code", {}, shortId(id))));
  return { node, update: () => {} };
}
