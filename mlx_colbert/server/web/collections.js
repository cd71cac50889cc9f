/** The collections: how large, how fresh, what could not be read; add, bring in step, remove. */

import { NoAnswer, pathOf, request } from "./api.js";
import { collectionsNow, heard } from "./catalogue.js";
import { onBack } from "./connection.js";
import { ask, byId, el, toast, working } from "./dom.js";
import { follow, idOf, isFollowed } from "./jobs.js";
import { change, link, state } from "./state.js";
import { ago, apart, baseName, bytes, count, visible } from "./text.js";

/** Show the collections as they are now. */
export async function showCollections() {
  try {
    await heard();
    const { jobs } = await request("GET", "/jobs");
    for (const job of jobs) if (job.state === "waiting" || job.state === "running") done(follow(job.id));
  } catch (error) {
    if (!(error instanceof NoAnswer)) byId("collections").replaceChildren(el("li", { class: "error", role: "alert" }, error.message));
    return;
  }
  draw();
}

/** Show the collections again when a job has ended. */
function done(following) {
  return following.then(() => heard()).then(draw, (error) => { if (!(error instanceof NoAnswer)) toast(error.message); });
}

/** Follow the job of an answer. */
export const followJob = (answer) => {
  const id = idOf(answer);
  return id && !isFollowed(id) ? done(follow(id)) : Promise.resolve();
};

function draw() {
  const all = collectionsNow();
  // A button that has the focus is drawn again.
  const focused = byId("collections").contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  byId("collections").replaceChildren(...(all.length ? all.map((one, at) => card(one, at)) : [el("li", { class: "muted" }, "There is no collection yet. Add a folder, or drop files.")]));
  if (focused) byId("collections").querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
}

/** The folders of a collection: [label, path]. */
const foldersOf = (one) => (Array.isArray(one.folders) ? one.folders.map((path) => [baseName(path), path]) : Object.entries(one.folders ?? {}));

function card(one, at) {
  const nFailed = typeof one.failed === "number" ? one.failed : Object.keys(one.failed ?? {}).length;
  const waiting = Object.entries(one.waiting ?? {});
  const fact = (name, value) => (value == null || value === "" ? null : el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  const id = `collection-${at}`;
  return el("li", { class: "card" },
    el("article", { "aria-labelledby": id },
      el("header", { class: "card-head" },
        el("h2", { id }, el("a", link({ tab: "search", c: [one.name], at: "", open: "" }), apart(one.name))),
        el("p", { class: "actions" },
          action("Sync", `Read what has changed in ${one.name}`, () => sync(one)),
          action("Remove", `Remove ${one.name}`, () => remove(one)))),
      one.error ? el("p", { class: "error" }, visible(one.error)) : null,
      foldersOf(one).map(([, path]) => el("p", { class: "where" }, apart(path, { class: "path" }))),
      el("dl", { class: "facts" },
        fact("passages", one.passages == null ? null : count(one.passages, "passage").split(" ")[0]),
        fact("files", one.files == null ? null : count(one.files, "file").split(" ")[0]),
        fact("size", one.bytes == null ? null : bytes(one.bytes)),
        fact("last read", one.synced_at ? el("time", { datetime: new Date(one.synced_at * 1000).toISOString(), title: new Date(one.synced_at * 1000).toLocaleString() }, ago(one.synced_at)) : "not yet"),
        fact("model", one.model ? apart(baseName(one.model), { title: visible(one.model) }) : null)),
      one.is_trusted === false ? el("p", { class: "note" }, "Its settings are not trusted, so they are not used. In a terminal: ", el("code", {}, `mlx-colbert trust ${one.name}`)) : null,
      waiting.map(([extra, n]) => el("p", { class: "note" }, `${count(n, "file")} cannot be read yet. Install what reads them: `, el("code", {}, `pip install 'mlx-colbert[${extra}]'`))),
      nFailed ? failures(one, nFailed) : null));
}

function action(text, label, work) {
  return el("button", { type: "button", class: "quiet", "aria-label": label, onclick: (event) => {
    working(event.currentTarget, work).catch((error) => { if (!(error instanceof NoAnswer)) toast(error.message); });
  } }, text);
}

function failures(one, n) {
  const list = el("ul", { class: "failures" });
  const node = el("details", { class: "failed" }, el("summary", {}, `${count(n, "file")} could not be read`), list);
  node.addEventListener("toggle", async () => {
    if (!node.open || list.childElementCount) return;
    try {
      const { failed } = await request("GET", pathOf("collections", one.name));
      list.replaceChildren(...Object.entries(failed ?? {}).map(([path, reason]) => el("li", {}, apart(path, { class: "path" }), el("span", {}, visible(reason)))));
    } catch (error) {
      list.replaceChildren(el("li", {}, error.message));
    }
  });
  return node;
}

async function sync(one) {
  await followJob(await request("POST", pathOf("collections", one.name, "sync"), { json: {} }));
}

async function remove(one) {
  const answer = await ask(byId("sure"), el("form", { method: "dialog" },
    el("h2", { id: "sure-title" }, "Remove ", apart(one.name), "?"),
    el("p", {}, "The collection is deleted, with the files that were dropped into it. Files in your folders stay."),
    el("div", { class: "dialog-row" }, el("button", { value: "", autofocus: true }, "Cancel"), el("button", { class: "danger", value: "yes" }, "Remove"))));
  if (answer !== "yes") return;
  await request("DELETE", pathOf("collections", one.name));
  if (state().c.includes(one.name)) change({ c: state().c.filter((name) => name !== one.name) });
  toast(`Removed ${visible(one.name)}.`);
  await heard();
  draw();
  byId("main").focus();
}

/** Listen at the form that adds a folder. */
export function listenToCollections() {
  byId("add-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const folder = byId("add-folder").value.trim();
    const name = byId("add-name").value.trim();
    byId("add-error").textContent = "";
    working(event.target.querySelector("button"), async () => {
      const answer = await request("POST", "/collections", { json: { folder, ...(name && { name }) } });
      event.target.reset();
      const following = followJob(answer);
      await heard();
      draw();
      await following;
    }).catch((error) => { if (!(error instanceof NoAnswer)) byId("add-error").textContent = error.message; });
  });
  onBack(() => { if (state().tab === "collections") showCollections(); });
}
