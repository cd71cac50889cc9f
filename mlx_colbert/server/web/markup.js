/** Markdown read as people read it: the signs step back, and the text stays where it is. */

import { el } from "./dom.js";
import { appendText } from "./text.js";

const MARKS = new RegExp([
  /(?<ticks>`{1,3})(?!`)(?<code>[^\n`]{1,200})\k<ticks>(?!`)/,
  /(?<stars>\*\*|__)(?=\S)(?<strong>[^\n*_]{1,200}?)\k<stars>/,
  /!?\[(?<label>[^\]\n]{1,200})\]\([^()\s]{0,1000}(?:\([^()\s]{0,200}\)[^()\s]{0,1000})?(?:\s"[^"\n]{0,200}")?\)/,
  /^(?<level>#{1,6} )/,
  /^(?<rule>\|?[ :]*-{2,}[ :|-]*\n)/,
  /(?<pipe>\|)/,
].map((part) => part.source).join("|"), "gm");

const FENCES = /^[ \t]*(?:```|~~~)[^\n]*(?:\n|$)/gm;

/** The parts [start, end, class] of a piece of Markdown that are shown otherwise. "gone" is not shown. */
export function marksOf(text, offset = 0) {
  const fences = [...text.matchAll(FENCES)].map((found) => [found.index + offset, found.index + offset + found[0].length, "gone"]);
  // Signs in code stand for themselves.
  if (fences.length) return fences;
  const marks = [];
  for (const found of text.matchAll(MARKS)) {
    const { ticks, code, stars, strong, label, pipe } = found.groups;
    const start = found.index + offset;
    const end = start + found[0].length;
    const inner = (sign, text_, name) => marks.push([start, start + sign, "gone"], ...(name ? [[start + sign, start + sign + text_.length, name]] : []), [start + sign + text_.length, end, "gone"]);
    if (code !== undefined) inner(ticks.length, code, "code");
    else if (strong !== undefined) inner(stars.length, strong, "strong");
    else if (label !== undefined) inner(found[0].indexOf("[") + 1, label, null);
    else marks.push([start, end, pipe ? "pipe" : "gone"]);
  }
  return marks;
}

/** Append the part [from, to] of a text, with its marks. */
export function appendMarked(node, text, from, to, marks) {
  let at = from;
  for (const [start, end, name] of marks) {
    if (end <= at) continue;
    if (start >= to) break;
    if (start > at) appendText(node, text.slice(at, start));
    const [first, last] = [Math.max(start, at), Math.min(end, to)];
    if (name !== "gone") {
      const span = el("span", { class: `m-${name}` });
      appendText(span, text.slice(first, last));
      node.append(span);
    }
    at = last;
  }
  if (at < to) appendText(node, text.slice(at, to));
}
