/** Copy a passage, or where it is. */

import { el, toast } from "./dom.js";
import { asMarkdown } from "./text.js";

/** Copy a hit as Markdown with its citation. */
export const copyHit = (hit) => copy(asMarkdown(hit), "Copied as Markdown with its place.");

/** Copy the path of the file of a hit. */
export const copyPath = (hit) => copy(hit.path, "Copied the path.");

async function copy(text, told) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copySelected(text)) { toast("The browser does not let this page copy."); return; }
  }
  toast(told);
}

/** Without https a browser has no clipboard for pages, but it copies what is selected. */
function copySelected(text) {
  const field = el("textarea", { class: "hidden", "aria-label": "Text to copy" });
  field.value = text;
  document.body.append(field);
  const before = document.activeElement;
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  before?.focus();
  return isDone;
}
