// Helpers to build the page. Data of the service is only ever inserted as text, never as markup.

export function $(id) {
  return document.getElementById(id);
}

/** Returns a new element; children are nodes or strings. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Sets a text only if it differs, so that selections and screen readers are not disturbed. */
export function setText(node, text) {
  const next = text ?? "";
  if (node.textContent !== next) node.textContent = next;
}

/** Sets a text, and hides the node if the text is empty. */
export function setOrHide(node, text) {
  setText(node, text);
  node.hidden = !text;
}

const updates = new WeakMap();

/**
 * Updates the children of `parent` to match `items`, by `key`. An item keeps its node, so that focus
 * and open details survive. `make(item)` returns `{node, update}` for a new item.
 */
export function sync(parent, items, key, make) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const keys = new Set(items.map((item) => String(key(item))));
  for (const [name, node] of known) if (!keys.has(name)) node.remove();
  items.forEach((item, index) => {
    let node = known.get(String(key(item)));
    if (!node) {
      const made = make(item);
      node = made.node;
      node.dataset.key = key(item);
      updates.set(node, made.update);
    }
    updates.get(node)(item);
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

/** Fills a `dl` with pairs of a term and a string or node; pairs without a value are omitted. */
export function setFacts(list, facts) {
  const shown = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const content = JSON.stringify(shown.map(([term, value]) => [term, value.textContent ?? value]));
  if (list.dataset.shown === content) return;
  list.dataset.shown = content;
  list.replaceChildren(...shown.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
}

/** Returns a time in the zone of the browser and in UTC, in which the logs of the service are. */
export function exactTime(iso) {
  const at = new Date(iso);
  const utc = at.toISOString().slice(0, 19).replace("T", " ");
  return `${at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" })} (${utc} UTC)`;
}

/** Returns a `time` element such as "3 min ago" that stays current; its title has the exact time. */
export function timeAgo(iso) {
  const node = el("time", { datetime: iso, title: exactTime(iso) });
  setText(node, ago(iso));
  return node;
}

/** Changes the time of a `time` element. */
export function setTime(node, iso) {
  node.setAttribute("datetime", iso);
  node.title = exactTime(iso);
  setText(node, ago(iso));
}

setInterval(() => {
  for (const node of document.querySelectorAll("time")) setText(node, ago(node.dateTime));
}, 10_000);

function ago(iso) {
  const seconds = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  const days = Math.floor(seconds / 86_400);
  return days === 1 ? "yesterday" : `${days} days ago`;
}

/** Returns a button that copies the current value of `text()`. */
export function copyButton(label, text) {
  const button = el("button", { type: "button", class: "quiet copy", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      setText(button, "Copied");
    } catch {
      setText(button, "Select it and press Ctrl+C"); // the clipboard needs https or localhost
    }
    setTimeout(() => setText(button, "Copy"), 2000);
  });
  return button;
}

/** Shows commands in a `pre`, with a button that copies them. */
export function setCode(pre, text) {
  setText(pre, text);
  if (!pre.parentElement.querySelector(".copy")) {
    pre.parentElement.append(copyButton("Copy these commands", () => pre.textContent));
  }
}
