/** The text of a passage: its best part, and each word shaded by how well it answers the query. */

import { el } from "./dom.js";
import { appendMarked, marksOf } from "./markup.js";

// Characters of a passage that are shown before the reader asks for more.
const EXCERPT = 560;
// Characters that one click on "more" shows at most: a line may be as long as a file.
const CHUNK = 20_000;
// A line of prose that is at least so long was wrapped by an editor, so its end means nothing.
const WRAPPED = 58;
const KINDS_AS_THEY_ARE = new Set(["code", "rows", "notebook"]);
// Similarities from which a word has the shade 1 to 5.
const LEVELS = [0.27, 0.34, 0.45, 0.56, 0.68];

/** The shade 0 to 5 of a similarity of 0 to 1. */
export const levelOf = (similarity) => LEVELS.filter((least) => similarity >= least).length;

/** Whether a file is of a kind where each sign has its place. */
export const isAsItIs = (hit) => KINDS_AS_THEY_ARE.has(hit.metadata?.kind);

const isFenced = (text) => /^\s*(```|~~~)/.test(text);

/** The words with UTF-16 places: the server counts code points. */
export function inUtf16(text, words) {
  if (!words?.length || !/[\ud800-\udfff]/.test(text)) return words ?? [];
  const ordered = [...words].sort((a, b) => a.start - b.start);
  const found = [];
  let points = 0;
  let place = 0;
  const placeOf = (target) => {
    while (points < target && place < text.length) {
      place += text.codePointAt(place) > 0xffff ? 2 : 1;
      points += 1;
    }
    return place;
  };
  for (const word of ordered) found.push({ ...word, start: placeOf(word.start), end: placeOf(word.end) });
  return found;
}

/** The same text, as long, with a space for each end of a line that only an editor made. */
export function unwrapped(text) {
  const lines = text.split("\n");
  let isFenced = false;
  let out = "";
  lines.forEach((line, at) => {
    if (/^\s*(```|~~~)/.test(line)) isFenced = !isFenced;
    const next = lines[at + 1];
    out += line;
    if (next === undefined) return;
    const goesOn = !isFenced && line.length >= WRAPPED && /^\s{0,3}[\p{L}\p{N}"'“‘(`[*_]/u.test(next) && !/^\s*([*+-]|\d+[.)])\s/.test(next) && !/ {2}$/.test(line);
    out += goesOn ? " " : "\n";
  });
  return out;
}

/** The part [start, end] of a text that answers best. The whole text, if it is short. */
export function bestPart(text, words, size = EXCERPT) {
  if (text.length <= size * 1.35) return [0, text.length];
  let best = 0;
  let most = 0;
  let sum = 0;
  let last = 0;
  for (let first = 0; first < words.length; first += 1) {
    while (last < words.length && words[last].end - words[first].start <= size) sum += words[last++].similarity ** 3;
    if (sum > most) [best, most] = [words[first].start, sum];
    sum -= words[first].similarity ** 3;
  }
  let start = Math.max(Math.min(best - 60, text.length - size), 0);
  // From the beginning of a sentence or line if there is one near, else of a word.
  if (start > 0) {
    const before = text.slice(Math.max(start - 160, 0), start + 60);
    const found = [...before.matchAll(/(?:\n|[.!?。！？]\s)(?=\S)/g)].at(-1);
    const blank = text.slice(start, start + 40).search(/\s/);
    if (found) start = Math.max(start - 160, 0) + found.index + found[0].length;
    else if (blank >= 0) start += blank + 1;
  }
  // To the end of a sentence or line if there is one near, else of a word.
  let end = Math.min(start + size, text.length);
  const after = text.slice(end, end + 160);
  const stop = after.search(/[.!?。！？](?=\s|$)|\n/);
  const space = after.slice(0, 40).search(/\s/);
  if (after.length < 160) end = text.length;
  else if (stop >= 0) end += stop + 1;
  else if (space >= 0) end += space;
  if (/[\udc00-\udfff]/.test(text[start] ?? "")) start += 1;
  if (/[\ud800-\udbff]/.test(text[end - 1] ?? "")) end -= 1;
  return [start, end];
}

/** Append the part [start, end] of a text with its words shaded. */
export function appendShaded(node, text, words, start = 0, end = text.length, marks = []) {
  let at = start;
  for (const word of words) {
    if (word.end <= at || word.start >= end) continue;
    const level = levelOf(word.similarity);
    if (level === 0) continue;
    const [from, to] = [Math.max(word.start, at), Math.min(word.end, end)];
    appendMarked(node, text, at, from, marks);
    const span = el("span", { class: `w w${level}`, "data-q": word.query_word });
    appendMarked(span, text, from, to, marks);
    node.append(span);
    at = to;
  }
  appendMarked(node, text, at, end, marks);
}

/** The text of a hit: its best part, and a button for the rest. */
export function passage(hit) {
  const raw = hit.text ?? "";
  const asItIs = isAsItIs(hit) || isFenced(raw);
  const isMarkdown = hit.metadata?.kind === "markdown";
  const text = asItIs ? raw : unwrapped(raw);
  const words = inUtf16(raw, hit.words);
  const body = el("div", { class: `passage${asItIs ? " as-it-is" : ""}`, dir: "auto" });
  const fill = (start, end) => {
    body.replaceChildren();
    if (start > 0) body.append(el("span", { class: "cut" }, "… "));
    appendShaded(body, text, words, start, end, isMarkdown ? marksOf(text.slice(start, end), start) : []);
    if (end < text.length) body.append(el("span", { class: "cut" }, " …"));
  };
  const [start, end] = bestPart(text, words);
  fill(start, end);
  if (start === 0 && end === text.length) return { body, more: null };
  let shown = 0;
  const more = el("button", { type: "button", class: "quiet", "aria-expanded": "false", onclick: () => {
    shown = shown >= text.length ? 0 : Math.min(shown + CHUNK, text.length);
    if (shown) fill(0, shown);
    else fill(start, end);
    more.setAttribute("aria-expanded", String(shown > 0));
    more.textContent = shown === 0 ? "Show all" : shown < text.length ? "Show more" : "Show less";
  } }, "Show all");
  return { body, more };
}
