// Formats numbers, durations, ids and progress for display.

export function percent(ratio, digits = 1) {
  return ratio === null || ratio === undefined ? "–" : `${(ratio * 100).toFixed(digits)} %`;
}

/** Returns the names of eval_datasets among the names of metrics. */
export function evalNames(metrics) {
  const found = metrics.map((name) => /^eval_(?:before_)?(.+)\/accuracy$/.exec(name)?.[1]);
  return [...new Set(found.filter((name) => name && name !== "before"))].sort();
}

/** Returns the name of the evaluation dataset whose accuracy stands for a job; null: eval_dataset. */
function mainEval(metrics) {
  return "eval/accuracy" in metrics ? null : (evalNames(Object.keys(metrics))[0] ?? null);
}

/** Returns the accuracy that lists show, as a number. */
export function accuracyFrom(metrics) {
  const name = mainEval(metrics);
  return metrics[`${name ? `eval_${name}` : "eval"}/accuracy`];
}

/** Returns the accuracy, what share of the held-out pairs it leaves out, and above which length. */
export function accuracyOf(metrics) {
  const name = mainEval(metrics);
  const group = name ? `eval_${name}` : "eval";
  const [leftOut, limit] = [metrics[`${group}/left_out`], metrics[`${group}/max_length`]];
  const note = leftOut ? ` (${percent(leftOut, 0)} left out, limit ${number(limit)} tokens)` : "";
  return percent(accuracyFrom(metrics)) + (name ? ` ${name}` : "") + note;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isSafeInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(1).replace(".0e", "e");
}

export function bytes(count) {
  if (count === 1) return "1 byte";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024;
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  if (whole < 172_800) {
    const minutes = Math.round(whole / 60);
    return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }
  return `${Math.round(whole / 86_400)} days`;
}

/** Returns the id in the address of this page, encoded for the address of a request. */
export function idInAddress() {
  const id = location.pathname.split("/")[2];
  try {
    return encodeURIComponent(decodeURIComponent(id));
  } catch {
    return encodeURIComponent(id); // a lone percent sign; the service does not find it
  }
}

/** Shortens an id to its prefix and its random end. */
export function shortId(id) {
  return `${id.slice(0, id.indexOf("_") + 1)}…${id.slice(-8)}`;
}

const PAGES = { eval: "/evaluations/", job: "/jobs/" };

/** Returns the page of a job, an evaluation or a score batch; batches have no pages of their own. */
export function pageOf(id) {
  const page = PAGES[id.slice(0, id.indexOf("_"))];
  return page ? page + id : "/score-batches";
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** Returns the progress of a job as `{text, ratio}`; ratio is null while it is unknown. */
export function progressOf(job) {
  if (job.status === "succeeded") return { text: "", ratio: 1 };
  const { rows_done: rows, rows_total: all } = job.progress;
  if (all) return { text: `${number(rows)} of ${plural(all, "row")}`, ratio: Math.min(rows / all, 1) };
  const { step, total_steps: total } = job.progress;
  if (step === null || !total) return { text: "", ratio: null };
  return { text: `${number(step)} / ${number(total)}`, ratio: Math.min(step / total, 1) };
}

export function isFinished(job) {
  return ["succeeded", "failed", "cancelled"].includes(job.status);
}

export function titleOf(job) {
  return job.name ?? shortId(job.id);
}

/** Returns names with their values, such as `enable_thinking=false`. */
export function assignments(values) {
  return Object.entries(values).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", ");
}
