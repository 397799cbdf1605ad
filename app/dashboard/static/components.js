// Components that several pages use.

import { getBlob, Problem, remove } from "./api.js";
import { $, el, setOrHide, setText } from "./dom.js";
import { bytes, number } from "./format.js";

/** Shows a status as a word with its own symbol, so that it does not depend on colour. */
export function setPill(node, status) {
  node.className = `pill ${status}`;
  setText(node, status);
}

/** Shows whether the adapter, reloaded in a fresh process, gives the scores of the trained model. */
export function setCertificate(node, certificate) {
  const isVerified = certificate.is_verified === true;
  const result = isVerified ? "verified" : "not verified";
  const explanation =
    `A fresh process loaded the adapter with plain PEFT and scored the probe replies again. ` +
    `Largest difference: ${number(certificate.max_abs_difference)}.`;
  node.replaceChildren(el("span", { class: `pill ${isVerified ? "succeeded" : "failed"}` }, result), ` ${explanation}`);
}

/** Makes a button download a file with fetch, because a link cannot send the API key; size: null if unknown. */
export function offerDownload(button, state, name, size, path) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    setText(state, `Downloading ${size === null ? name : bytes(size)}…`);
    try {
      const url = URL.createObjectURL(await getBlob(path));
      el("a", { href: url, download: name }).click();
      URL.revokeObjectURL(url);
      setText(state, `Downloaded ${name}.`);
    } catch (error) {
      setText(state, error instanceof Problem ? `${error.message} ${error.hint}` : `${error.message} Try again.`);
    }
    button.disabled = false;
  });
}

/** Makes a button delete a resource after a question, and then open another page. */
export function deleteButton(button, path, question, next) {
  button.addEventListener("click", async () => {
    if (!confirm(question)) return;
    try {
      await remove(path);
      location.assign(next);
    } catch (error) {
      setOrHide($("action-error"), `${error.message} ${error.hint ?? ""}`);
    }
  });
}

/** Hides the form for a new item if the key may see the list, but not what the form needs. */
export function hideForm(form, error) {
  if (!(error instanceof Problem) || error.status !== 403) throw error;
  form.hidden = true;
}

/** Sets the links to the newest and to the older items of a list; both keep `filter`. */
export function setPages(page, path, filter, isOlder) {
  $("pages").hidden = !page.has_more && !isOlder;
  $("newest").hidden = !isOlder;
  $("older").hidden = !page.has_more;
  $("newest").href = `${path}?${new URLSearchParams(filter ?? {})}`;
  $("older").href = `${path}?${new URLSearchParams({ ...filter, after: page.next ?? "" })}`;
}
