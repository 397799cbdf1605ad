// Numbers and names for people.

export function percent(share, digits = 1) {
  return share === null || share === undefined ? "–" : `${(share * 100).toFixed(digits)} %`;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
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
  if (whole < 172_800) return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
  return `${Math.round(whole / 86_400)} days`;
}

/** An id that fits a table: its kind and its random end. */
export function shortId(id) {
  return `${id.slice(0, id.indexOf("_") + 1)}…${id.slice(-8)}`;
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** A shown progress: `{text, share}`, share null where nothing can be said yet. */
export function progressOf(job) {
  if (job.status === "succeeded") return { text: "", share: 1 };
  const { step, total_steps: total } = job.progress;
  if (step === null || !total) return { text: "", share: null };
  return { text: `${number(step)} / ${number(total)}`, share: Math.min(step / total, 1) };
}

export function isOver(job) {
  return ["succeeded", "failed", "cancelled"].includes(job.status);
}

export function titleOf(job) {
  return job.name ?? shortId(job.id);
}
