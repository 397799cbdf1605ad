// The API key of this tab. It is kept in sessionStorage, never in a cookie, a URL or a log. Tabs of the
// same service share it, so that a job opens in a new tab without signing in again.

const NAME = "plaudit.key";
const OTHER_TABS_TIMEOUT_MS = 200;
const tabs = new BroadcastChannel("plaudit.key");

tabs.addEventListener("message", ({ data }) => {
  if (data.type === "request" && currentKey()) tabs.postMessage({ type: "share", key: currentKey() });
  if (data.type === "forget" && currentKey()) {
    sessionStorage.removeItem(NAME);
    location.reload();
  }
});
addEventListener("hashchange", () => {
  if (takeFromFragment()) location.reload();
});

export function currentKey() {
  return sessionStorage.getItem(NAME);
}

export function keepKey(key) {
  sessionStorage.setItem(NAME, key);
}

/** Removes the key from this tab. */
export function dropKey() {
  sessionStorage.removeItem(NAME);
}

/** Removes the key from every tab. */
export function signOut() {
  dropKey();
  tabs.postMessage({ type: "forget" });
  location.assign("/");
}

/** Returns the key from the URL fragment, from this tab's storage or from another tab, or null. */
export async function findKey() {
  takeFromFragment();
  return currentKey() ?? (await requestFromTabs());
}

// Browsers do not send the fragment to the server. It is removed from the URL before any request.
function takeFromFragment() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return false;
  history.replaceState(null, "", location.pathname + location.search);
  if (key === currentKey()) return false;
  // Ask first, because anyone can craft such a link: with a foreign key, this tab would show the
  // data of another tenant and upload to it.
  const question = currentKey() ? "replace the API key of this tab" : "sign in";
  if (!confirm(`The link that you opened contains an API key. Use it to ${question}?`)) return false;
  keepKey(key);
  return true;
}

function requestFromTabs() {
  return new Promise((resolve) => {
    const finish = () => {
      tabs.removeEventListener("message", listen);
      resolve(currentKey());
    };
    const listen = ({ data }) => {
      if (data.type !== "share") return;
      keepKey(data.key);
      finish();
    };
    tabs.addEventListener("message", listen);
    tabs.postMessage({ type: "request" });
    setTimeout(finish, OTHER_TABS_TIMEOUT_MS);
  });
}
