// The API key of this tab. It is in sessionStorage and in no cookie, address or log; tabs of the
// same service lend it to each other, so that a job opens in a new tab without signing in again.

const NAME = "plaudit.key";
const OTHERS_ANSWER_MS = 200;
const tabs = new BroadcastChannel("plaudit.key");

tabs.addEventListener("message", ({ data }) => {
  if (data.type === "ask" && currentKey()) tabs.postMessage({ type: "lend", key: currentKey() });
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

/** Forgets the key in this tab. */
export function dropKey() {
  sessionStorage.removeItem(NAME);
}

/** Forgets the key in every tab. */
export function signOut() {
  dropKey();
  tabs.postMessage({ type: "forget" });
  location.assign("/");
}

/** The key of this tab: from the fragment, from before, or from another tab; else null. */
export async function findKey() {
  takeFromFragment();
  return currentKey() ?? (await borrow());
}

// A fragment never reaches a server; it leaves the address before anything is asked of one.
function takeFromFragment() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return false;
  history.replaceState(null, "", location.pathname + location.search);
  if (key === currentKey()) return false;
  // Anybody can write such a link: with another key, this tab would show and upload to another
  // tenant's account.
  const question = currentKey() ? "replace the API key of this tab" : "sign in";
  if (!confirm(`The link that you opened contains an API key. Use it to ${question}?`)) return false;
  keepKey(key);
  return true;
}

function borrow() {
  return new Promise((resolve) => {
    const finish = () => {
      tabs.removeEventListener("message", listen);
      resolve(currentKey());
    };
    const listen = ({ data }) => {
      if (data.type !== "lend") return;
      keepKey(data.key);
      finish();
    };
    tabs.addEventListener("message", listen);
    tabs.postMessage({ type: "ask" });
    setTimeout(finish, OTHERS_ANSWER_MS);
  });
}
