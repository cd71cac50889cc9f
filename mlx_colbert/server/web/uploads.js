/** Files that are dropped on the page: they are copied into a collection of uploads. */

import { NoAnswer, pathOf, request } from "./api.js";
import { collectionsNow, heard } from "./catalogue.js";
import { followJob, showCollections } from "./collections.js";
import { byId, el, toast } from "./dom.js";
import { filesOf } from "./dropped.js";
import { leave } from "./jobs.js";
import { change } from "./state.js";
import { bytes, count, number, visible } from "./text.js";

const MOST_BYTES = 64 * 1024 * 1024;
// What is wrong with the collection is wrong for each file: then the others are not sent.
const OF_ALL = new Set([401, 403, 404, 409]);
const MOST_TOLD = 20;

/** A line that says how far it is, with a button that stops it. */
function line() {
  const controller = new AbortController();
  const label = el("span", { class: "job-what" }, "Looking at the files…");
  const bar = el("progress", { "aria-label": "Files sent" });
  const stop = el("button", { type: "button", class: "quiet", onclick: () => controller.abort() }, "Stop");
  const root = el("div", { class: "job" }, el("p", { class: "row" }, label, stop), bar);
  byId("jobs").append(root);
  return { signal: controller.signal, end: () => leave(root), show: (path, at, n) => {
    label.textContent = `Sending ${visible(path)} (${number(at + 1)} of ${number(n)})`;
    bar.max = n;
    bar.value = at;
  } };
}

/** Send the files of a drop to the collection that the field names, and follow its sync. */
async function upload(drop) {
  const name = byId("drop-name").value.trim() || "uploads";
  change({ tab: "collections", at: "", open: "" });
  const { signal, show, end } = line();
  const problems = [];
  const sent = new Set();
  let last = null;
  try {
    const { files, problems: unread } = await drop;
    problems.push(...unread);
    if (files.length) {
      await heard(signal);
      if (!collectionsNow().some((one) => one.name === name)) await request("POST", "/collections", { json: { uploads: true, name }, signal });
    } else if (!unread.length) toast("There is no file in what you dropped.");
    for (const [at, [path, file]] of files.entries()) {
      show(path, at, files.length);
      try {
        if (sent.has(path)) throw new Error("Another file of this drop has the same name. Drop it in a folder of its own.");
        if (file.size > MOST_BYTES) throw new Error(`It has ${bytes(file.size)}. The most is ${bytes(MOST_BYTES)}.`);
        last = await request("PUT", `${pathOf("collections", name)}/files${pathOf(...path.split("/"))}`, { body: file, signal });
        sent.add(path);
      } catch (error) {
        if (error instanceof NoAnswer || signal.aborted || OF_ALL.has(error.status)) throw error;
        problems.push([path, error.message]);
      }
    }
  } catch (error) {
    if (!signal.aborted) problems.push(["", error instanceof NoAnswer ? "The server went away. Drop the files again when it is back." : error.message]);
  }
  end();
  if (sent.size || signal.aborted) toast(`${signal.aborted ? "Stopped. " : ""}Sent ${count(sent.size, "file")}.`);
  if (last) followJob(last);
  if (problems.length) tellProblems(problems);
  showCollections();
}

function tellProblems(problems) {
  const nFiles = problems.filter(([path]) => path).length;
  const rest = problems.length - MOST_TOLD;
  const node = el("div", { class: "job error", role: "alert" },
    el("p", { class: "row" },
      el("span", {}, nFiles ? `${count(nFiles, "file")} could not be added` : "Not all could be added"),
      el("button", { type: "button", class: "quiet", onclick: () => leave(node) }, "Close")),
    el("ul", { class: "failures" },
      problems.slice(0, MOST_TOLD).map(([path, reason]) => el("li", {}, visible(path && !reason.includes(path) ? `${path}: ${reason}` : reason))),
      rest > 0 ? el("li", {}, `And ${number(rest)} more.`) : null));
  byId("jobs").append(node);
}

/** Take files that are dropped anywhere on the page, or chosen. */
export function listenToUploads() {
  const veil = byId("drop-veil");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let hiding;
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    clearTimeout(hiding);
    veil.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    // Safari never says where to. If it is still over the page, the next "dragover" comes soon.
    if (!event.relatedTarget) hiding = setTimeout(() => { veil.hidden = true; }, 120);
  });
  addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    upload(filesOf(event.dataTransfer));
  });
  byId("files").addEventListener("change", async () => {
    const files = [...byId("files").files].map((file) => [file.name, file]);
    await upload({ files, problems: [] });
    byId("files").value = "";
  });
}
