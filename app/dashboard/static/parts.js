// Parts that more than one page shows.

import { getBlob, Problem } from "./api.js";
import { $, el, setText } from "./dom.js";
import { bytes, number } from "./format.js";

/** A status as a word with a mark of its own; colour only helps. */
export function setPill(node, status) {
  node.className = `pill ${status}`;
  setText(node, status);
}

/** Says whether the adapter, loaded in a fresh process, scored as the trained model did. */
export function setCertificate(node, certificate) {
  const isVerified = certificate.is_verified === true;
  const words = isVerified ? "verified" : "not verified";
  const story =
    `A fresh process loaded the adapter with plain PEFT and scored probe replies again. ` +
    `Largest difference: ${number(certificate.max_abs_difference)}.`;
  node.replaceChildren(el("span", { class: `pill ${isVerified ? "succeeded" : "failed"}` }, words), ` ${story}`);
}

/** Downloads through fetch: a plain link could not carry the key. */
export function offerDownload(button, state, name, size, path) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    setText(state, `Downloading ${bytes(size)}…`);
    try {
      const url = URL.createObjectURL(await getBlob(path));
      el("a", { href: url, download: name }).click();
      URL.revokeObjectURL(url);
      setText(state, `${name} is in your downloads.`);
    } catch (error) {
      setText(state, error instanceof Problem ? `${error.message} ${error.hint}` : `${error.message} Try again.`);
    }
    button.disabled = false;
  });
}

/** Links to the newest and to older items of a list; `filter` is part of both. */
export function setPages(page, path, filter, isOlder) {
  $("pages").hidden = !page.has_more && !isOlder;
  $("newest").hidden = !isOlder;
  $("older").hidden = !page.has_more;
  $("newest").href = `${path}?${new URLSearchParams(filter ?? {})}`;
  $("older").href = `${path}?${new URLSearchParams({ ...filter, after: page.next ?? "" })}`;
}
