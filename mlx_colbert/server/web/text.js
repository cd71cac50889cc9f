/** Texts of strangers, shown harmlessly; numbers and times for people. */

import { el } from "./dom.js";

// What steers the direction of a text, or a terminal, or cannot be seen. Joiners (U+200C, U+200D) are part of
// Persian words and of emoji, and the tab and the end of a line are layout. No language has nine marks on a letter:
// they would be drawn over what is above and below.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0001}-\u{e007f}]|\p{M}{9,}/gu;
const IN_NAMES = new RegExp(`${HIDDEN.source}|[\\t\\n\\u200c\\u200d]`, "gu");

const code = (sign) => (/\p{M}{2}/u.test(sign) ? `${[...sign].length} marks` : `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);

/** A path, title or other short text, with a code for each sign that cannot be seen. */
export const visible = (text) => String(text ?? "").replace(IN_NAMES, (sign) => `\u27e8${code(sign)}\u27e9`);

/** A short text of a stranger, kept apart from the direction of the text around it. */
export const apart = (text, attributes = {}) => el("bdi", attributes, visible(text));

/** Append a text of a passage to a node, with a mark for each sign that cannot be seen. */
export function appendText(node, text) {
  let end = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found[0] === "\r") continue;
    node.append(text.slice(end, found.index), el("span", { class: "sign", title: "a sign that cannot be seen" }, code(found[0])));
    end = found.index + found[0].length;
  }
  node.append(end ? text.slice(end) : text);
}

const NUMBER = new Intl.NumberFormat("en");
export const number = (n) => NUMBER.format(n);
export const count = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;

/** A number of bytes: 3.5 MB. */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (n >= 1000 && step < units.length - 1) { n /= 1000; step += 1; }
  return `${step && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[step]}`;
}

const AGE = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const STEPS = [[60, "second"], [60, "minute"], [24, "hour"], [30, "day"], [12, "month"], [Infinity, "year"]];

/** How long ago a time was, in seconds since 1970. */
export function ago(time) {
  let value = time - Date.now() / 1000;
  if (value > -45) return "just now";
  for (const [size, unit] of STEPS) {
    if (Math.abs(value) < size) return AGE.format(Math.round(value), unit);
    value /= size;
  }
  return "";
}

/** The last part of a path. */
export const baseName = (path) => String(path ?? "").split(/[\\/]/).filter(Boolean).at(-1) ?? "";

/** Where a passage is: notes/bees.md:12-31, report.pdf, page 3. */
export function place(hit) {
  const position = hit.position ?? {};
  const lines = position.lines;
  const parts = [(hit.source ?? hit.doc_id) + (lines ? `:${lines[0]}${lines[1] === lines[0] ? "" : `-${lines[1]}`}` : "")];
  for (const key of ["page", "slide", "cell", "row"]) if (key in position) parts.push(`${key} ${position[key]}`);
  return parts.join(", ");
}

const BREAKS_MARKDOWN = /[\\`*_[\]<>&]/g;

/** A passage as Markdown: a quotation, and where it is from. */
export function asMarkdown(hit) {
  const quoted = (hit.text ?? "").replace(HIDDEN, " ").split("\n").map((line) => `> ${line}`.trimEnd()).join("\n");
  const where = visible([place(hit), ...(hit.position?.headings ?? [])].join(" › ")).replace(BREAKS_MARKDOWN, "\\$&");
  const target = /^(file|https?):\/\//.test(hit.link ?? "") ? `[${where}](<${encodeURI(decodeURI(hit.link)).replace(/[<>]/g, encodeURIComponent)}>)` : where;
  return `${quoted}\n\n— ${target}\n`;
}
