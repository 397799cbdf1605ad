// Tags: the metadata of a job, as links to the jobs with the same value.

import { el, setText } from "./dom.js";

/** Returns `{node, update}` for a `[name, value]`. */
export function makeTag() {
  const node = el("a", { class: "label" });
  const update = ([name, value]) => {
    setText(node, `${name}: ${value}`);
    node.href = `/?${new URLSearchParams({ tag: `${name}:${value}` })}`;
  };
  return { node, update };
}
