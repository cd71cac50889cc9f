/** The page: it shows the state of the URL, and each part changes that state. */

import { listenToAsk } from "./ask.js";
import { heard } from "./catalogue.js";
import { listenToCollections, showCollections } from "./collections.js";
import { onBack } from "./connection.js";
import { byId } from "./dom.js";
import { listenToFilters, showFilters } from "./filters.js";
import { isFollowing, listenToKeys } from "./keys.js";
import { listenToReader, showReader } from "./reader.js";
import { listenToSearch, searchFor } from "./search.js";
import { formatted, onChange, state } from "./state.js";
import { listenToUploads } from "./uploads.js";
import { listenToWords } from "./words.js";

const TABS = ["search", "ask", "collections"];
const FIRST = { search: "query", ask: "question", collections: "main" };
// On a phone, a focused field would open the keyboard of the screen.
const HAS_KEYBOARD = matchMedia("(hover: hover)");

function showTabs(now) {
  for (const tab of TABS) byId(`view-${tab}`).hidden = tab !== now.tab;
  for (const link of document.querySelectorAll("[data-tab]")) {
    // The query goes along to the other tabs.
    link.href = formatted({ ...now, tab: link.dataset.tab, at: "", open: "" });
    if (link.dataset.tab === now.tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const what = now.tab === "collections" ? "Collections" : now.q;
  document.title = what ? `${what.slice(0, 60)} · mlx-colbert` : "mlx-colbert";
}

function setField(field, text) {
  // The cursor stays where it is while someone types.
  if (field.value !== text) field.value = text;
}

function show(now, before) {
  showTabs(now);
  setField(byId("query"), now.q);
  setField(byId("question"), now.q);
  byId("empty").hidden = !now.q;
  const typed = before && now.q !== before.q && document.activeElement === byId("query");
  const filtered = ["c", "type", "in", "since", "before", "mode"].some((key) => String(now[key]) !== String(before?.[key]));
  if (filtered) showFilters();
  if (now.tab === "search") searchFor({ typing: typed || (before && now.in !== before.in) });
  if (now.tab === "collections" && before?.tab !== "collections") showCollections();
  if (before && now.tab !== before.tab) byId(HAS_KEYBOARD.matches ? FIRST[now.tab] : "main").focus();
  showReader({ follows: isFollowing() });
}

listenToSearch();
listenToFilters();
listenToWords();
listenToReader();
listenToAsk();
listenToCollections();
listenToUploads();
listenToKeys();
onChange(show);
show(state(), null);
if (state().tab === "search" && !state().open) byId("query").focus();
heard().catch(() => {});
onBack(() => { heard().catch(() => {}); });
