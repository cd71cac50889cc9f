/** An open passage: its source at its place, with what surrounds it, and related passages. */

import { NoAnswer, pathOf, request } from "./api.js";
import { onBack } from "./connection.js";
import { copyHit, copyPath } from "./copying.js";
import { byId, el } from "./dom.js";
import { focusHit, linkTo, markOpen, takeWantsRelated, title } from "./hits.js";
import { appendShaded, bestPart, inUtf16, isAsItIs, passage } from "./passage.js";
import { hitOf } from "./search.js";
import { change, settle, state } from "./state.js";
import { apart, appendText, count, place, visible } from "./text.js";

// Lines around a passage at first, and with each click.
const [AROUND, STEP] = [40, 200];
// The most lines that the server gives at once.
const MOST_LINES = 5000;
// Passages of a file without lines that are looked through, and shown before and after.
const [MOST_PASSAGES, NEAR] = [2000, 3];
// Characters of one line that are shown at first.
const LONGEST_LINE = 4000;
const NARROW = matchMedia("(max-width: 63.99rem)");

let controller = new AbortController();
let shown = null;
let opener = null;

/** Whether the reader lies over the hits. */
const isOver = () => NARROW.matches && !byId("reader").hidden;

function arrange() {
  const over = isOver();
  byId("main").inert = over;
  for (const node of document.querySelectorAll(".top, .skip")) node.inert = over;
  document.documentElement.toggleAttribute("data-reading", !byId("reader").hidden);
}

/** Close the passage. The focus goes back to its hit. */
export function close() {
  if (!state().open) return false;
  settle();
  change({ at: "", open: "" });
  return true;
}

/** Give the focus back to where the passage was opened. */
function goBack() {
  if (state().tab === "search" && focusHit()) return;
  if (opener?.getClientRects().length) opener.focus();
  else byId(state().tab === "search" ? "query" : "main").focus();
}

/** Show the passage of the state, or none. */
export async function showReader({ follows = false } = {}) {
  const { at, open } = state();
  const key = open ? `${at}\n${open}` : null;
  if (key === shown) return;
  const hadFocus = byId("reader").contains(document.activeElement);
  shown = key;
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  markOpen();
  if (!key) {
    byId("reader").hidden = true;
    byId("reader").replaceChildren();
    arrange();
    if (hadFocus || NARROW.matches) goBack();
    return;
  }
  const wantsRelated = takeWantsRelated();
  if (byId("reader").hidden) opener = document.activeElement;
  byId("reader").hidden = false;
  arrange();
  const known = hitOf(at, open);
  byId("reader").scrollTop = 0;
  if (known) draw(known);
  else byId("reader").replaceChildren(head(null));
  if (!follows) byId("reader").focus({ preventScroll: true });
  try {
    const hit = known ?? await request("GET", pathOf("collections", at, "passages", open), { signal });
    if (signal.aborted) return;
    if (!known) draw({ collection: at, ...hit });
    const related = fillRelated({ collection: at, ...hit }, signal);
    await fillSource({ collection: at, ...hit }, signal);
    await related;
    if (wantsRelated && !signal.aborted) byId("related")?.scrollIntoView({ block: "start" });
  } catch (error) {
    if (signal.aborted) return;
    shown = null;
    if (!(error instanceof NoAnswer)) fail(error);
  }
}

function fail(error) {
  const gone = error.status === 404;
  byId("reader").replaceChildren(head(null), el("div", { class: "nothing", role: "alert" },
    el("h2", {}, gone ? "This passage is not there any more" : "This passage could not be opened"),
    el("p", {}, gone ? "Its file has changed since, or was removed. Search again to find where the text is now." : error.message)));
}

function head(hit) {
  return el("header", { class: "reader-head" },
    el("div", { class: "reader-tools" },
      hit ? el("button", { type: "button", class: "quiet", onclick: () => copyHit(hit) }, "Copy") : null,
      hit?.path ? el("button", { type: "button", class: "quiet", onclick: () => copyPath(hit) }, "Copy path") : null,
      el("button", { type: "button", class: "icon-button", "aria-label": "Close", title: "Close (Esc)", onclick: close }, el("span", { "aria-hidden": "true" }, "✕"))),
    el("div", { class: "reader-title" },
      hit ? el("p", { class: "where" }, apart(place(hit), { class: "path" }), apart(hit.collection, { class: "of" })) : null,
      el("h2", { id: "reader-title" }, hit ? title(hit) : "Opening…")));
}

function draw(hit) {
  byId("reader").replaceChildren(
    head(hit),
    hit.context?.length ? el("p", { class: "context", dir: "auto" }, hit.context.join(" ")) : "",
    el("div", { id: "source", class: "source" }, shownWhole(hit)),
    el("section", { id: "related", "aria-labelledby": "related-title" },
      el("h3", { id: "related-title" }, "Related passages"),
      el("ol", { class: "related" })));
}

/** Lines of a file, each with its number. */
function lineNode(hit, number, text, words) {
  const isOwn = number >= hit.position.lines[0] && number <= hit.position.lines[1];
  const line = el("span", { class: "line-text", dir: "auto" });
  let shownTo = Math.min(text.length, LONGEST_LINE);
  if (words.length && text.length > LONGEST_LINE) shownTo = Math.max(shownTo, bestPart(text, words)[1]);
  const fill = () => {
    line.replaceChildren();
    if (words.length) appendShaded(line, text, words, 0, shownTo);
    else appendText(line, text.slice(0, shownTo));
    if (shownTo < text.length) {
      line.append(el("button", { type: "button", class: "quiet", onclick: () => { shownTo = Math.min(shownTo + 20_000, text.length); fill(); } },
        `… ${count(text.length - shownTo, "more character")}`));
    }
  };
  fill();
  return el("div", { class: `line${isOwn ? " own" : ""}`, "data-line": number },
    el("span", { class: "line-number", "aria-hidden": "true" }, String(number)), line);
}

/** The words of the passage by the lines of its file. A passage may be a part of a line, or have a line that is not in the file. */
function wordsByLine(hit, fileLines, first) {
  const raw = hit.text ?? "";
  const words = inUtf16(raw, hit.words);
  const found = new Map();
  let number = Math.max(hit.position.lines[0], first);
  let column = 0;
  let begin = 0;
  for (const piece of raw.split("\n")) {
    const text = piece.trim();
    const start = begin + piece.indexOf(text);
    begin += piece.length + 1;
    if (!text) continue;
    for (let line = number, from = column; line <= hit.position.lines[1]; line += 1, from = 0) {
      const at = (fileLines[line - first] ?? "").indexOf(text, from);
      if (at < 0) continue;
      const own = words.filter((word) => word.start >= start && word.start < start + text.length);
      const shift = at - start;
      found.set(line, [...(found.get(line) ?? []), ...own.map((word) => ({ ...word, start: word.start + shift, end: word.end + shift }))]);
      [number, column] = [line, at + text.length];
      break;
    }
  }
  return found;
}

async function lines(hit, first, n, signal) {
  const query = new URLSearchParams({ path: hit.source, first, count: n });
  return request("GET", `${pathOf("collections", hit.collection, "source")}?${query}`, { signal });
}

async function fillSource(hit, signal) {
  if (!hit.source) return;
  const own = hit.position?.lines;
  try {
    if (own) await fillLines(hit, own, signal);
    else await fillPassages(hit, signal);
  } catch (error) {
    // Its file has gone, or cannot be read: the passage alone is shown.
    if (signal.aborted || error instanceof NoAnswer) throw error;
    byId("source")?.after(el("p", { class: "note" }, error.message));
  }
}

/** A file without lines, as a PDF: the passages before and after. */
async function fillPassages(hit, signal) {
  const { passages } = await lines(hit, 1, MOST_PASSAGES, signal);
  if (signal.aborted) return;
  const at = passages.findIndex((other) => other.doc_id === hit.doc_id);
  if (at < 0) return;
  const node = byId("source");
  const other = (near) => el("div", { class: "near" }, el("p", { class: "where" }, apart(place(near), { class: "path" })), shownWhole(near));
  node.firstElementChild.classList.add("own");
  node.prepend(...passages.slice(Math.max(at - NEAR, 0), at).map(other));
  node.append(...passages.slice(at + 1, at + 1 + NEAR).map(other));
  const view = byId("reader");
  view.scrollTop = Math.max(node.querySelector(".own").offsetTop - view.querySelector(".reader-head").offsetHeight - 12, 0);
}

function shownWhole(hit) {
  const { body, more } = passage(hit);
  more?.click();
  return body;
}

async function fillLines(hit, own, signal) {
  const first = Math.max(own[0] - AROUND, 1);
  const source = await lines(hit, first, Math.min(own[1] - first + 1 + AROUND, MOST_LINES), signal);
  if (signal.aborted || !source.lines.length) return;
  const words = wordsByLine(hit, source.lines, source.first);
  const nodes = (from, texts) => texts.map((text, at) => lineNode(hit, from + at, text, words.get(from + at) ?? []));
  const box = el("div", { class: `lines${isAsItIs(hit) ? " as-it-is" : ""}` }, nodes(source.first, source.lines));
  let [top, bottom] = [source.first, source.first + source.lines.length - 1];
  const view = byId("reader");
  const button = (label, load) => el("button", { type: "button", class: "quiet more-lines", onclick: (event) => load(event.currentTarget).catch(() => {}) }, label);
  const earlier = button("Earlier lines", async (node) => {
    const from = Math.max(top - STEP, 1);
    const got = await lines(hit, from, top - from, signal);
    const before = view.scrollHeight;
    box.prepend(...nodes(got.first, got.lines));
    top = from;
    if (top <= 1) node.remove();
    view.scrollTop += view.scrollHeight - before;
  });
  const later = button("Later lines", async (node) => {
    const got = await lines(hit, bottom + 1, STEP, signal);
    box.append(...nodes(got.first, got.lines));
    bottom += got.lines.length;
    if (bottom >= got.n_lines || !got.lines.length) node.remove();
  });
  byId("source").replaceChildren(top > 1 ? earlier : "", box, bottom < source.n_lines ? later : "");
  if (source.is_indexed === false) byId("source").before(el("p", { class: "note" }, "The file has changed since it was read. The marked lines may be others."));
  const ownNode = box.querySelector(".own");
  if (ownNode) {
    const headHeight = view.querySelector(".reader-head").offsetHeight;
    view.scrollTop = Math.max(ownNode.offsetTop - headHeight - view.clientHeight / 5, 0);
  }
}

async function fillRelated(hit, signal) {
  const list = byId("reader").querySelector(".related");
  try {
    const { hits } = await request("GET", `${pathOf("collections", hit.collection, "passages", hit.doc_id, "similar")}?k=6`, { signal });
    if (signal.aborted) return;
    list.replaceChildren(...hits.map((other) => el("li", {},
      el("a", linkTo(other),
        el("span", { class: "where" }, apart(place(other), { class: "path" })),
        el("span", { class: "related-title" }, title(other)),
        el("span", { class: "related-text", dir: "auto" }, preview(other))))));
    if (!hits.length) list.after(el("p", { class: "muted" }, "None."));
  } catch (error) {
    if (signal.aborted || error instanceof NoAnswer) return;
    list.after(el("p", { class: "muted" }, error.message));
  }
}

function preview(hit) {
  const node = document.createDocumentFragment();
  appendText(node, (hit.text ?? "").slice(0, 220).replace(/\s+/g, " "));
  return node;
}

/** Listen to the width of the window, and try again when the server is back. */
export function listenToReader() {
  NARROW.addEventListener("change", arrange);
  onBack(() => { if (state().open && shown === null) showReader({ follows: true }); });
}
