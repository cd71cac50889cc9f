/** The list of hits, and the way through it with the keyboard. */

import { copyHit } from "./copying.js";
import { byId, el } from "./dom.js";
import { passage } from "./passage.js";
import { change, link, settle, state } from "./state.js";
import { apart, baseName, place } from "./text.js";

/** The key of a hit in the page: two collections may have one id. */
export const keyOf = (hit) => `${hit.collection}\n${hit.doc_id}`;

/** The attributes of a link that opens a passage beside the hits. */
export const linkTo = (hit) => link({ tab: "search", at: hit.collection, open: hit.doc_id });

/** Headings as a path, or the name of the file. */
export function title(hit) {
  const headings = hit.position?.headings ?? [];
  if (!headings.length) return [apart(baseName(hit.source ?? hit.doc_id), { class: "last" })];
  return headings.flatMap((heading, at) => [
    at ? el("span", { class: "step", "aria-hidden": "true" }, " › ") : null,
    apart(heading, at === headings.length - 1 ? { class: "last" } : {}),
  ]);
}

function confidence(hit) {
  if (hit.confidence == null) return null;
  const percent = Math.round(hit.confidence * 100);
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", { class: "bar-fill" }));
  bar.firstChild.style.inlineSize = `${percent}%`;
  return el("span", { class: "confidence", title: "How sure it is that this passage has to do with the query" },
    bar, el("span", { class: "hidden" }, "Confidence "), `${percent} %`);
}

function item(hit, at, toldBefore, several) {
  const { body, more } = passage(hit);
  const told = (hit.context ?? []).filter((sentence) => !toldBefore.has(sentence));
  told.forEach((sentence) => toldBefore.add(sentence));
  const node = el("li", { class: "hit", "data-key": keyOf(hit) },
    el("article", { "aria-labelledby": `hit-${at}` },
      el("p", { class: "where" },
        apart(place(hit), { class: "path" }),
        several ? apart(hit.collection, { class: "of" }) : null,
        confidence(hit)),
      el("h2", { id: `hit-${at}` }, el("a", { class: "hit-title", tabindex: at ? "-1" : "0", ...linkTo(hit) }, title(hit))),
      told.length ? el("p", { class: "context", dir: "auto" }, told.join(" ")) : null,
      body,
      el("p", { class: "actions" },
        more,
        el("button", { type: "button", class: "quiet", onclick: () => copyHit(hit) }, "Copy"),
        el("button", { type: "button", class: "quiet", onclick: () => open(hit, true) }, "Related"))));
  body.addEventListener("click", () => { if (!String(getSelection())) open(hit); });
  return node;
}

let wantsRelated = false;

/** Open the source of a hit at its place. */
export function open(hit, related = false) {
  settle();
  wantsRelated = related;
  if (related && state().open === hit.doc_id && state().at === hit.collection) byId("related")?.scrollIntoView({ block: "start" });
  change({ tab: "search", at: hit.collection, open: hit.doc_id });
}

/** Whether the passage was opened for its related ones. Only true once. */
export function takeWantsRelated() {
  const wanted = wantsRelated;
  wantsRelated = false;
  return wanted;
}

/** Show hits. The focus stays at the hit that has it. */
export function showHits(hits) {
  const list = byId("hits");
  const focused = list.contains(document.activeElement) ? document.activeElement.closest(".hit")?.dataset.key : null;
  const toldBefore = new Set();
  const several = new Set(hits.map((hit) => hit.collection)).size > 1;
  list.replaceChildren(...hits.map((hit, at) => item(hit, at, toldBefore, several)));
  markOpen();
  if (focused) titleOf(focused)?.focus({ preventScroll: true });
}

const titles = () => [...byId("hits").querySelectorAll(".hit-title")];
const titleOf = (key) => titles().find((node) => node.closest(".hit").dataset.key === key);

/** Mark the hit whose passage is open. */
export function markOpen() {
  const { at, open: id } = state();
  for (const node of byId("hits").children) {
    const isOpen = id !== "" && node.dataset.key === `${at}\n${id}`;
    node.toggleAttribute("data-open", isOpen);
    if (isOpen) node.querySelector(".hit-title").setAttribute("aria-current", "true");
    else node.querySelector(".hit-title").removeAttribute("aria-current");
  }
  const all = titles();
  const current = titleOf(`${at}\n${id}`);
  if (current) for (const node of all) node.tabIndex = node === current ? 0 : -1;
}

/** Focus a hit by its number, or the current one. Whether there is one. */
export function focusHit(number) {
  const all = titles();
  const target = all[number] ?? all.find((node) => node.tabIndex === 0) ?? all[0];
  if (!target) return false;
  become(all, target);
  return true;
}

function become(all, target) {
  for (const node of all) node.tabIndex = node === target ? 0 : -1;
  target.focus({ preventScroll: true });
  target.closest(".hit").scrollIntoView({ block: "nearest" });
}

/** Go a number of hits on. Returns the hit's link that has the focus now. */
export function moveBy(step) {
  const all = titles();
  if (!all.length) return null;
  const now = all.indexOf(document.activeElement?.closest?.(".hit")?.querySelector(".hit-title"));
  const openAt = all.findIndex((node) => node.closest(".hit").hasAttribute("data-open"));
  const from = now >= 0 ? now : openAt;
  const target = all[Math.min(Math.max(from < 0 ? 0 : from + step, 0), all.length - 1)];
  become(all, target);
  return target;
}
