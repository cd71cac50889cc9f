/** The words of the query: point at one, and the words that it found light up. */

import { byId, el } from "./dom.js";
import { visible } from "./text.js";

let pinned = null;

/** Show the words of a query above the hits, if their hits have shades. */
export function showWords(words, hits) {
  pinned = null;
  const found = new Set(hits.flatMap((hit) => (hit.words ?? []).map((word) => word.query_word)));
  const list = byId("words");
  list.hidden = !words?.length || !found.size;
  list.replaceChildren(...(words ?? []).map((word, at) =>
    el("li", {}, el("button", { type: "button", class: "word", "data-word": at, "aria-pressed": "false" }, visible(word.text)))));
  light(null);
}

function light(at) {
  for (const node of document.querySelectorAll(".lit")) node.classList.remove("lit");
  document.documentElement.classList.toggle("has-lit", at !== null);
  if (at === null) return;
  for (const node of document.querySelectorAll(`[data-q="${CSS.escape(at)}"], .word[data-word="${CSS.escape(at)}"]`)) node.classList.add("lit");
}

const wordAt = (node) => node?.closest?.(".word")?.dataset.word ?? null;

/** Listen at the words of the query, and at the shaded words of the passages. */
export function listenToWords() {
  const list = byId("words");
  list.addEventListener("pointerover", (event) => light(wordAt(event.target) ?? pinned));
  list.addEventListener("pointerleave", () => light(pinned));
  list.addEventListener("focusin", (event) => light(wordAt(event.target)));
  list.addEventListener("focusout", () => light(pinned));
  list.addEventListener("click", (event) => {
    const at = wordAt(event.target);
    if (at === null) return;
    pinned = pinned === at ? null : at;
    for (const button of list.querySelectorAll(".word")) button.setAttribute("aria-pressed", String(button.dataset.word === pinned));
    light(pinned);
  });
  for (const place of [byId("hits"), byId("reader")]) {
    place.addEventListener("pointerover", (event) => {
      const word = event.target.closest?.(".w");
      if (word) light(word.dataset.q);
      else if (document.documentElement.classList.contains("has-lit")) light(pinned);
    });
    place.addEventListener("pointerleave", () => light(pinned));
  }
}
