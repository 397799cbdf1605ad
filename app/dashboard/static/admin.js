// The page for admins: API keys, webhooks with their deliveries, and the audit log of the tenant.

import { get, getAll, post, remove } from "./api.js";
import { retryWhileUnavailable } from "./connection.js";
import { makeDeliveries } from "./deliveries.js";
import { $, el, exactTime, setOrHide, timeAgo } from "./dom.js";
import { shortId } from "./format.js";

export async function start(show) {
  await retryWhileUnavailable(load);
  $("key-form").addEventListener("submit", (event) => act(event, createKey));
  $("webhook-form").addEventListener("submit", (event) => act(event, createWebhook));
  show();
}

async function load() {
  const [keys, webhooks] = await Promise.all([getAll("/v1/api-keys"), getAll("/v1/webhooks")]);
  $("keys").replaceChildren(...keys.map(makeKey));
  $("webhooks").replaceChildren(...webhooks.map(makeWebhook));
  $("no-webhooks").hidden = webhooks.length > 0;
  $("audit").replaceChildren();
  await loadAudit(null);
}

async function loadAudit(after) {
  const page = await get(`/v1/audit?${new URLSearchParams({ limit: "50", ...(after && { after }) })}`);
  $("audit").append(...page.data.map(makeEntry));
  $("older-entries").hidden = !page.has_more;
  $("older-entries").onclick = () => act(null, () => loadAudit(page.next));
}

function makeEntry({ at, action, object_id, key_id, client }) {
  const texts = [action, shortId(object_id), key_id ? shortId(key_id) : "operator", client ?? "–"];
  return el("tr", {}, el("td", {}, timeAgo(at)), ...texts.map((text) => el("td", {}, text)));
}

function makeKey({ id, name, scopes, last_used_at, expires_at }) {
  const time = (at) => el("td", {}, at ? timeAgo(at) : "never");
  const expiry = el("td", { title: expires_at && exactTime(expires_at) }, expires_at ? new Date(expires_at).toLocaleDateString() : "never");
  const button = actionButton("Revoke", `Revoke the key ${name}? Programs that use it stop working.`, () => remove(`/v1/api-keys/${id}`));
  return el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, scopes.join(", ")), time(last_used_at), expiry, el("td", {}, button));
}

function makeWebhook({ id, url, events, disabled_at, failing_since }) {
  const state = disabled_at ? "disabled because it failed for too long" : failing_since ? "failing" : "works";
  return el(
    "li",
    {},
    el("code", {}, url),
    ` ${events.join(", ")} · ${state} `,
    actionButton("Send a test", null, () => post(`/v1/webhooks/${id}/test`)),
    " ",
    actionButton("Delete", `Delete the webhook to ${url}?`, () => remove(`/v1/webhooks/${id}`)),
    makeDeliveries(id, url, (run) => act(null, run)),
  );
}

async function createKey() {
  const key = await post("/v1/api-keys", { name: $("key-name").value, scopes: [...$("key-scopes").selectedOptions].map(({ value }) => value) });
  $("key-form").reset();
  setOrHide($("new-key"), `Copy the key now, it is not shown again: ${key.secret}`);
  await load();
}

async function createWebhook() {
  const webhook = await post("/v1/webhooks", { url: $("webhook-url").value });
  $("webhook-form").reset();
  setOrHide($("new-webhook"), `Copy the secret now, it is not shown again: ${webhook.secret}`);
  await load();
}

function actionButton(label, question, run) {
  const button = el("button", { type: "button" }, label);
  button.addEventListener("click", () => {
    if (question && !confirm(question)) return;
    act(null, async () => {
      await run();
      await load();
    });
  });
  return button;
}

/** Runs an action and shows its error. */
async function act(event, run) {
  event?.preventDefault();
  setOrHide($("action-error"), "");
  const button = event?.currentTarget.querySelector("[type=submit]");
  if (button) button.disabled = true; // a second click would create a second one
  try {
    await run();
  } catch (error) {
    const fields = (error.errors ?? []).map(({ loc, message }) => `${loc}: ${message}`);
    setOrHide($("action-error"), [error.message, error.hint, ...fields].filter(Boolean).join(" "));
  }
  if (button) button.disabled = false;
}
