/** Search as you type: a new query stops the one before, so no answer comes late. */

import { NoAnswer, request } from "./api.js";
import { collectionsNow, heard, nothingYet } from "./catalogue.js";
import { onBack } from "./connection.js";
import { byId, el } from "./dom.js";
import { clearFilters, nFilters, restriction } from "./filters.js";
import { focusHit, showHits } from "./hits.js";
import { change, settle, state } from "./state.js";
import { ago, count, number, visible } from "./text.js";
import { showWords } from "./words.js";

const DEBOUNCE_MS = 150;
// Looking for changed files takes a while, so it waits until the reader has stopped typing.
const REFRESH_AFTER_MS = 900;
const REFRESH_EVERY_MS = 10_000;
// After so long, the page says why.
const SLOW_MS = 1500;
// A screen reader says how much was found when the reader has stopped typing.
const SAY_AFTER_MS = 1000;
const [FEW, MANY] = [20, 100];

let k = FEW;
let controller = new AbortController();
let timer;
let refreshTimer;
let sayTimer;
let refreshedAt = 0;
let shownFor = null;
let shownHits = [];

/** The hit with this id, if the last search found it. */
export const hitOf = (collection, id) => shownHits.find((hit) => hit.collection === collection && hit.doc_id === id);

/** What a search depends on. */
const wanted = (from = state()) => JSON.stringify([from.q.trim(), restriction(from), from.mode, from.all]);

/** Search for the state, if it is not shown yet. `typing`: wait for the next key first. */
export function searchFor({ typing = false } = {}) {
  clearTimeout(timer);
  if (wanted() === shownFor) return;
  k = FEW;
  timer = setTimeout(run, typing ? DEBOUNCE_MS : 0);
}

/** Search again, also in files that have changed. */
export function searchAgain() {
  shownFor = null;
  run({ refresh: true });
}

async function run({ refresh = false, quiet = false } = {}) {
  clearTimeout(timer);
  clearTimeout(refreshTimer);
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  const query = state().q.trim();
  const key = wanted();
  if (!query) {
    shownFor = key;
    await showStart(signal);
    return;
  }
  const busy = quiet ? null : setTimeout(() => byId("hits").setAttribute("aria-busy", "true"), 200);
  const slow = quiet ? null : setTimeout(() => tell("Searching… The first search loads the model."), SLOW_MS);
  try {
    const result = await request("POST", "/search", {
      signal,
      json: { query, k, ...restriction(), ...(state().mode && { mode: state().mode }), all: state().all === "1", refresh, shading: true },
      onWait: (wait_s) => { if (!quiet) tell(`The server is busy. Trying again in ${Math.ceil(wait_s)} s.`); },
    });
    if (signal.aborted) return;
    shownFor = key;
    show(result, quiet);
    if (refresh) refreshedAt = Date.now();
    else if (Date.now() - refreshedAt > REFRESH_EVERY_MS) {
      refreshTimer = setTimeout(() => run({ refresh: true, quiet: true }), REFRESH_AFTER_MS);
    }
  } catch (error) {
    if (signal.aborted) return;
    // What is shown stays, if only looking for changed files was not possible.
    if (quiet) return;
    shownFor = null;
    if (!(error instanceof NoAnswer)) await showProblem(error, signal);
  } finally {
    clearTimeout(busy);
    clearTimeout(slow);
    if (!signal.aborted) byId("hits").removeAttribute("aria-busy");
  }
}

/** Say how a search goes: to eyes at once, to screen readers after a while, and not how long it took. */
function tell(text, took = "") {
  byId("status").textContent = text + took;
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => {
    if (byId("search-status").textContent !== text) byId("search-status").textContent = text;
  }, SAY_AFTER_MS);
}

/** Show what comes after the hits. If the focus was there, it goes to a hit, or to the field. */
function showAfter(...nodes) {
  const hadFocus = byId("after-hits").contains(document.activeElement);
  byId("after-hits").replaceChildren(...nodes);
  if (hadFocus && !focusHit()) byId("query").focus();
}

function show(result, quiet) {
  const { hits } = result;
  const isSame = quiet && JSON.stringify(hits) === JSON.stringify(shownHits);
  shownHits = hits;
  byId("notes").replaceChildren(...(result.notes ?? []).map((note) => el("p", { class: "note" }, visible(note))));
  const took = result.took_ms == null ? "" : ` · ${number(Math.max(Math.round(result.took_ms), 1))} ms`;
  tell(hits.length ? count(hits.length, "passage") : "No passage", hits.length ? took : "");
  if (isSame) return;
  showHits(hits);
  showWords(result.query_words, hits);
  showAfter(...(hits.length ? afterHits(result) : [nothingFound(result)]));
}

const showLess = () => el("button", { type: "button", class: "quiet", onclick: () => change({ all: "" }) }, "Only those that are relevant");

function showUnsure(result) {
  const text = result.below === 1 ? "Show the one that is less sure" : `Show ${number(result.below)} that are less sure`;
  return el("button", { type: "button", class: "secondary", onclick: () => change({ all: "1" }) }, text);
}

function afterHits(result) {
  const more = result.hits.length >= k && k < MANY
    ? el("button", { type: "button", class: "secondary", onclick: async () => { k = MANY; await run(); focusHit(FEW); } }, "Show more") : null;
  return [
    more,
    result.below ? showUnsure(result) : null,
    state().all === "1" ? showLess() : null,
  ].filter(Boolean);
}

/** What was searched, for people: 157 passages in docs, read 3 minutes ago. */
function searched() {
  const chosen = collectionsNow().filter((one) => !state().c.length || state().c.includes(one.name));
  if (!chosen.length) return "Nothing was searched.";
  const passages = chosen.reduce((sum, one) => sum + (one.passages ?? 0), 0);
  const oldest = Math.min(...chosen.map((one) => one.synced_at ?? 0));
  const where = chosen.length > 3 ? count(chosen.length, "collection") : chosen.map((one) => visible(one.name)).join(", ");
  return `Searched: ${count(passages, "passage")} in ${where}. ${oldest ? `Files were last read ${ago(oldest)}.` : "Not all files are read yet."}`;
}

function nothingFound(result) {
  const n = nFilters();
  const best = result.best_below == null ? "" : ` The best that was left out has a confidence of ${Math.round(result.best_below * 100)} %.`;
  const told = el("p", {}, `${searched()}${best}`);
  heard().then(() => { told.textContent = `${searched()}${best}`; }, () => {});
  return el("div", { class: "nothing" },
    el("h2", {}, result.below ? "Nothing relevant was found" : "Nothing was found"),
    told,
    n ? el("p", {}, `${count(n, "filter")} ${n === 1 ? "limits" : "limit"} what can be found.`) : null,
    el("p", { class: "row" },
      result.below ? showUnsure(result) : null,
      n ? el("button", { type: "button", class: "secondary", onclick: clearFilters }, "Clear the filters") : null));
}

async function showProblem(error, signal) {
  if (error.status === 404 && (await nothingYet(signal))) { await showStart(signal); return; }
  showHits([]);
  shownHits = [];
  showWords([], []);
  tell("");
  byId("notes").replaceChildren();
  showAfter(el("div", { class: "nothing", role: "alert" },
    el("h2", {}, "This search was not possible"),
    el("p", {}, error.message),
    el("p", { class: "row" },
      el("button", { type: "button", class: "secondary", onclick: searchAgain }, "Try again"),
      nFilters() ? el("button", { type: "button", class: "secondary", onclick: clearFilters }, "Clear the filters") : null)));
}

/** The page without a query: what there is, and what can be done. */
async function showStart(signal) {
  showHits([]);
  shownHits = [];
  showWords([], []);
  tell("");
  byId("notes").replaceChildren();
  let isEmpty = false;
  try { isEmpty = await nothingYet(signal); } catch (error) { if (signal.aborted) return; }
  if (signal.aborted) return;
  showAfter(isEmpty ? noCollection() : start());
}

function noCollection() {
  return el("div", { class: "nothing" },
    el("h2", {}, "There is nothing to search yet"),
    el("p", {}, "Add a folder of notes, papers or code. It is read on your computer, and stays there. Or drop files on this page."),
    el("p", { class: "row" }, el("a", { class: "primary", href: "#/collections" }, "Add a folder")),
    el("p", { class: "muted" }, "In a terminal: ", el("code", {}, "mlx-colbert sync ~/notes")));
}

const WAYS = [
  ["Ask as you would ask a person", "why do my plants have yellow leaves"],
  ["Describe what you cannot name", "the part where they argue about the budget"],
  ["Find code by what it does", "retry a request with growing pauses"],
];

function start() {
  const all = collectionsNow();
  const passages = all.reduce((sum, one) => sum + (one.passages ?? 0), 0);
  return el("div", { class: "nothing start" },
    el("p", { class: "lead" }, `${count(passages, "passage")} in ${all.length > 3 ? count(all.length, "collection") : all.map((one) => visible(one.name)).join(", ")}. Nothing leaves the computer that runs mlx-colbert.`),
    el("ul", { class: "ways" }, WAYS.map(([what, example]) => el("li", {}, el("span", {}, what), el("q", {}, example)))),
    el("p", { class: "muted" }, "Each word of a passage is shaded by how well it answers. Point at a word of your query to see what it found. Press ", el("kbd", {}, "?"), " for all keys."));
}

/** Listen at the search field. */
export function listenToSearch() {
  const field = byId("query");
  field.addEventListener("input", () => change({ q: field.value, all: "" }, { typing: true }));
  byId("empty").addEventListener("click", () => { settle(); change({ q: "", all: "" }); field.focus(); });
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    settle();
    searchAgain();
  });
  onBack(() => { if (state().tab === "search") { shownFor = null; run(); } });
}
