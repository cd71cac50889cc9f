/** The keys of the page. */

import { byId, el } from "./dom.js";
import { focusHit, moveBy, takeWantsRelated } from "./hits.js";
import { close, showReader } from "./reader.js";
import { change, settle, state } from "./state.js";

const KEYS = [
  ["/", "go to the search field"],
  ["↓ ↑  or  j k", "next and previous passage"],
  ["Enter", "open the passage"],
  ["Esc", "close the passage, then empty the search"],
  ["c", "copy the passage as Markdown with its place"],
  ["r", "related passages"],
  ["1 2 3", "Search, Ask, Collections"],
  ["?", "these keys"],
];

/** Show what the keys do. */
export function showKeys() {
  const dialog = byId("keys");
  if (dialog.open) return;
  dialog.replaceChildren(el("form", { method: "dialog" },
    el("h2", { id: "keys-title" }, "Keys"),
    el("dl", { class: "keys" }, KEYS.map(([keys, what]) => el("div", {}, el("dt", {}, el("kbd", {}, keys)), el("dd", {}, what)))),
    el("div", { class: "dialog-row" }, el("button", { class: "primary", autofocus: true }, "Close"))));
  dialog.showModal();
}

const isWriting = (node) => node?.matches?.("input:not([type=checkbox]):not([type=file]), textarea, select");

let followTimer;

/** Go to another hit. If a passage is open, open that of the hit. */
function go(step) {
  const target = moveBy(step);
  if (!target || !state().open) return;
  clearTimeout(followTimer);
  followTimer = setTimeout(() => {
    takeWantsRelated();
    const [at, open] = target.closest(".hit").dataset.key.split("\n");
    following = true;
    change({ at, open }, { typing: true });
    following = false;
  }, 120);
}

let following = false;

/** Whether the passage that opens now follows the keys, so that the focus stays at the hit. */
export const isFollowing = () => following;

const focusField = () => {
  if (state().tab === "collections") change({ tab: "search" });
  const field = byId(state().tab === "ask" ? "question" : "query");
  field.focus();
  field.select();
};

const press = (label) => {
  const node = document.activeElement?.closest?.(".hit") ?? byId("hits").querySelector("[data-open]");
  [...(node?.querySelectorAll(".actions button") ?? [])].find((button) => button.textContent === label)?.click();
};

const PLAIN = {
  "/": focusField,
  "?": showKeys,
  j: () => go(1),
  k: () => go(-1),
  ArrowDown: () => go(1),
  ArrowUp: () => go(-1),
  c: () => press("Copy"),
  r: () => press("Related"),
  1: () => change({ tab: "search", at: "", open: "" }),
  2: () => change({ tab: "ask", at: "", open: "" }),
  3: () => change({ tab: "collections", at: "", open: "" }),
};

function escape(event) {
  if (close()) { event.preventDefault(); return; }
  const field = byId("query");
  if (state().tab !== "search") return;
  event.preventDefault();
  if (document.activeElement === field && field.value) {
    settle();
    change({ q: "", all: "" });
  }
  field.focus();
}

/** Listen to the keys. */
export function listenToKeys() {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") { escape(event); return; }
    if (event.target.id === "query" && event.key === "ArrowDown") {
      if (focusHit()) event.preventDefault();
      return;
    }
    if (isWriting(event.target) && !(event.key === "?" && event.target.id === "query" && !event.target.value)) return;
    // The arrows scroll an open passage that has the focus.
    if (event.key.startsWith("Arrow") && (event.target.closest("#reader, details, dialog") || state().tab !== "search")) return;
    if (event.key === "ArrowUp" && event.target.matches?.(".hit:first-child .hit-title")) {
      event.preventDefault();
      byId("query").focus();
      return;
    }
    const work = PLAIN[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  });
  byId("help").addEventListener("click", showKeys);
  byId("skip").addEventListener("click", () => { if (!focusHit()) byId("main").focus(); });
}
