// Shows preference pairs: the prompt, and the replies side by side.

import { el } from "./dom.js";
import { number } from "./format.js";

export function makePair(pair) {
  const marks = [];
  if (pair.margin !== undefined) marks.push(`margin ${number(pair.margin)}`);
  if (pair.slice !== undefined) marks.push(pair.slice);
  return el(
    "li",
    {},
    ...(pair.prompt === undefined ? [] : [el("div", { class: "prompt" }, ...texts(pair.prompt))]),
    el("div", { class: "replies" }, ...makeReplies(pair)),
    ...(marks.length ? [el("p", { class: "muted" }, marks.join(" · "))] : []),
  );
}

/** Returns a section for each reply of a pair, or of a row of ranked replies. */
function makeReplies(row) {
  const section = (kind, title, reply) => el("section", { class: kind }, el("h3", {}, title), ...texts(reply));
  if (row.replies === undefined) {
    return [section("chosen", "Chosen", row.chosen), section("rejected", "Rejected", row.rejected)];
  }
  return row.replies.map(({ rank, reply }) => section(rank === 1 ? "chosen" : "rejected", `Rank ${rank}`, reply));
}

/** Returns paragraphs for a text or for the messages of a conversation. */
function texts(content) {
  if (typeof content === "string") return [el("p", { class: "text", tabindex: "0" }, content)];
  return content.map((message) => el("p", { class: "text", tabindex: "0" }, el("b", { class: "role" }, message.role), said(message)));
}

/** Returns the text of a message: its reasoning, its content and the tools that it calls. */
function said(message) {
  const calls = (message.tool_calls ?? []).map((call) => `${call.function.name}(${JSON.stringify(call.function.arguments)})`);
  return [message.reasoning_content, message.content, ...calls].filter((part) => part).join("\n");
}
