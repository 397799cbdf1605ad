// Building the page. Text from the service becomes text nodes and nothing else.

export function $(id) {
  return document.getElementById(id);
}

/** An element; children are nodes or texts. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Changes a text only when it differs: selections and screen readers are left in peace. */
export function setText(node, text) {
  const wanted = text ?? "";
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Shows a text in a place that is hidden while there is none. */
export function setOrHide(node, text) {
  setText(node, text);
  node.hidden = !text;
}

const updates = new WeakMap();

/**
 * Makes the children of `parent` those of `items`, by `key`. A child stays the same node while its
 * item is there, so that focus and open details survive; `make(item)` gives `{node, update}`.
 */
export function sync(parent, items, key, make) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const wanted = new Set(items.map((item) => String(key(item))));
  for (const [name, node] of known) if (!wanted.has(name)) node.remove();
  items.forEach((item, place) => {
    let node = known.get(String(key(item)));
    if (!node) {
      const made = make(item);
      node = made.node;
      node.dataset.key = key(item);
      updates.set(node, made.update);
    }
    updates.get(node)(item);
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
  });
}

/** Fills a `dl`: pairs of term and text or node; pairs without a value are left out. */
export function setFacts(list, facts) {
  const shown = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const news = JSON.stringify(shown.map(([term, value]) => [term, value.textContent ?? value]));
  if (list.dataset.shown === news) return;
  list.dataset.shown = news;
  list.replaceChildren(...shown.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
}

/** A time as "3 min ago", kept up to date, with the exact time at hand. */
export function timeAgo(iso) {
  const node = el("time", { datetime: iso, title: new Date(iso).toLocaleString() });
  setText(node, ago(iso));
  return node;
}

/** Points a `time` at another moment. */
export function setTime(node, iso) {
  node.setAttribute("datetime", iso);
  node.title = new Date(iso).toLocaleString();
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

/** A button that copies what `text()` gives at that moment. */
export function copyButton(label, text) {
  const button = el("button", { type: "button", class: "quiet copy", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      setText(button, "Copied");
    } catch {
      setText(button, "Select it and press Ctrl+C"); // no clipboard outside of https and localhost
    }
    setTimeout(() => setText(button, "Copy"), 2000);
  });
  return button;
}

/** Puts a command into a `pre` with a button that copies it. */
export function setCode(pre, text) {
  setText(pre, text);
  if (!pre.parentElement.querySelector(".copy")) {
    pre.parentElement.append(copyButton("Copy these commands", () => pre.textContent));
  }
}
