/** What limits a search: collections, folder, kind, date, mode. */

import { byId, el } from "./dom.js";
import { change, state } from "./state.js";
import { visible } from "./text.js";

const KINDS = { markdown: "Markdown", text: "Text", pdf: "PDF", code: "Code", html: "HTML", docx: "Word", pptx: "Slides", epub: "Book", mail: "Mail", notebook: "Notebook", rows: "Table", restructuredtext: "reStructuredText" };
const AGES = { "": "Any time", "1d": "Past day", "1w": "Past week", "1m": "Past month", "1y": "Past year", own: "From … to …" };
const MODES = { "": "Meaning and words", semantic: "Meaning", keyword: "Words" };

let names = [];
let ownDates = false;

/** What the filters of a state are, for the body of a search. */
export function restriction(from = state()) {
  const paths = from.in.split(",").map((path) => path.trim()).filter(Boolean);
  return {
    ...(from.c.length && { collections: from.c }),
    ...(paths.length && { in: paths }),
    ...(from.type.length && { type: from.type }),
    ...(from.since && { since: from.since }),
    ...(from.before && { before: from.before }),
  };
}

/** The number of filters that are set. */
export const nFilters = (from = state()) => Object.keys(restriction(from)).length;

export const clearFilters = () => change({ c: [], type: [], in: "", since: "", before: "" });

/** A menu of boxes that can be ticked. */
function boxes(id, label, options, key) {
  const chosen = state()[key];
  const summary = chosen.length === 0 ? label : chosen.length === 1 ? options[chosen[0]] ?? chosen[0] : `${chosen.length} ${label.split(" ").at(-1)}`;
  const menu = el("details", { class: "menu", id },
    el("summary", { class: chosen.length ? "is-set" : "" }, visible(summary)),
    el("fieldset", {},
      el("legend", { class: "hidden" }, label),
      Object.entries(options).map(([value, text]) => el("label", { class: "box" },
        el("input", { type: "checkbox", value, checked: chosen.includes(value) }), el("bdi", {}, visible(text))))));
  menu.addEventListener("change", () => change({ [key]: [...menu.querySelectorAll("input:checked")].map((box) => box.value) }));
  return menu;
}

function choice(id, label, options, value, onchange) {
  const node = el("select", { id, "aria-label": label, class: value ? "is-set" : "", onchange: () => onchange(node.value) },
    Object.entries(options).map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return node;
}

function date(id, label, key) {
  const given = /^\d{4}-\d\d-\d\d$/.test(state()[key]) ? state()[key] : "";
  const node = el("input", { id, type: "date", value: given, "aria-label": label, class: given ? "is-set" : "", onchange: () => change({ [key]: node.value }) });
  return node;
}

/** Draw the filters for the state. */
export function showFilters() {
  const root = byId("filters");
  const openMenus = [...root.querySelectorAll("details[open]")].map((node) => node.id);
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  const at = focused && { id: focused.id || focused.closest("details")?.id, value: focused.value, place: focused.selectionStart };
  const now = state();
  const isOwn = ownDates || now.before !== "" || (now.since !== "" && !(now.since in AGES));
  const folder = el("input", { id: "filter-in", type: "text", value: now.in, placeholder: "Folder or *.md", "aria-label": "Only this folder, file or pattern", spellcheck: "false", autocapitalize: "off", class: now.in ? "is-set" : "" });
  folder.addEventListener("input", () => change({ in: folder.value }, { typing: true }));
  const n = nFilters();
  const toggle = el("button", { type: "button", id: "filter-toggle", class: "filter-toggle", "aria-expanded": String(root.hasAttribute("data-open")), "aria-controls": "filter-row", onclick: () => {
    root.toggleAttribute("data-open");
    toggle.setAttribute("aria-expanded", String(root.hasAttribute("data-open")));
  } }, n ? `Filters · ${n}` : "Filters");
  root.replaceChildren(
    toggle,
    el("div", { class: "filter-row", id: "filter-row", role: "group", "aria-label": "Filters" },
      names.length > 1 || now.c.length ? boxes("filter-c", "All collections", Object.fromEntries([...new Set([...names, ...now.c])].map((name) => [name, name])), "c") : null,
      folder,
      boxes("filter-type", "All kinds", KINDS, "type"),
      choice("filter-since", "Changed", AGES, isOwn ? "own" : now.since, (value) => {
        ownDates = value === "own";
        if (ownDates) { change({ since: "" }); showFilters(); byId("filter-from").focus(); } else change({ since: value, before: "" });
      }),
      isOwn ? [date("filter-from", "Changed on this day or later", "since"), date("filter-to", "Changed before this day", "before")] : null,
      choice("filter-mode", "Rank by", MODES, now.mode, (value) => change({ mode: value })),
      n ? el("button", { type: "button", id: "filter-clear", class: "quiet", onclick: () => { ownDates = false; clearFilters(); byId("query").focus(); } }, "Clear") : null));
  for (const id of openMenus) if (byId(id)) byId(id).open = true;
  if (at?.id) restore(at);
}

function restore({ id, value, place }) {
  const node = byId(id);
  if (!node) return;
  const target = node.tagName === "DETAILS" ? node.querySelector(`input[value="${CSS.escape(value ?? "")}"]`) ?? node.querySelector("summary") : node;
  target.focus();
  if (place != null && target.type === "text") target.setSelectionRange(place, place);
}

/** The names of the collections that can be chosen. */
export function setNames(given) {
  if (String(given) === String(names)) return;
  names = given;
  showFilters();
}

/** Close the menus when the reader goes elsewhere. */
export function listenToFilters() {
  const close = (except) => {
    for (const menu of byId("filters").querySelectorAll("details[open]")) if (menu !== except) menu.open = false;
  };
  document.addEventListener("pointerdown", (event) => close(event.target.closest?.("details")));
  byId("filters").addEventListener("focusin", (event) => close(event.target.closest("details")));
  byId("filters").addEventListener("keydown", (event) => {
    const menu = event.target.closest("details[open]");
    if (event.key !== "Escape" || !menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
    event.stopPropagation();
  });
}
