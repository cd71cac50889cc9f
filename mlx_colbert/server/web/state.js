/** The state of the page, kept in the fragment of the URL: it is never sent to the server. */

const TABS = ["search", "ask", "collections"];
const LISTS = ["c", "type"];
const TEXTS = ["q", "in", "since", "before", "mode", "all", "at", "open"];

const EMPTY = { tab: "search", c: [], type: [], ...Object.fromEntries(TEXTS.map((key) => [key, ""])) };

/** The state that the URL has. What it does not know is left out. */
export function parsed(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const given = new URLSearchParams(search);
  const state = { ...EMPTY, tab: TABS.includes(path) ? path : "search" };
  for (const key of LISTS) state[key] = given.getAll(key).filter(Boolean);
  for (const key of TEXTS) state[key] = given.get(key) ?? "";
  return state;
}

/** The fragment for a state. */
export function formatted(state) {
  const given = new URLSearchParams();
  for (const key of TEXTS) if (state[key]) given.set(key, state[key]);
  for (const key of LISTS) for (const value of state[key]) given.append(key, value);
  const search = given.toString();
  return `#/${state.tab}${search ? `?${search}` : ""}`;
}

let current = parsed(location.hash);
const listeners = [];
let settled = true;

/** The state now. */
export const state = () => current;

/** Call a function with the new and the old state after each change. */
export const onChange = (listener) => listeners.push(listener);

/** Let the last entry of the history stay as it is: the next change makes a new one. */
export const settle = () => { settled = true; };

/**
 * Change the state.
 * `typing`: the change is one of many, and all of them are one entry of the history.
 */
export function change(values, { typing = false } = {}) {
  const next = { ...current, ...values };
  const hash = formatted(next);
  if (hash === formatted(current)) return;
  if (typing && !settled) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  settled = !typing;
  became(next);
}

/** The attributes of a link that changes the state of the moment when it is clicked. */
export const link = (values) => ({
  href: formatted({ ...current, ...values }),
  onclick: (event) => {
    // A new tab or window is the browser's work.
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    settle();
    change(values);
  },
});

function became(next) {
  const before = current;
  current = next;
  for (const listener of listeners) listener(next, before);
}

addEventListener("popstate", () => {
  settled = true;
  became(parsed(location.hash));
});
