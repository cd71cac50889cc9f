/** Files that are dropped on the page: they are copied into a collection of uploads. */

import { NoAnswer, pathOf, request } from "./api.js";
import { collectionsNow, heard } from "./catalogue.js";
import { followJob, showCollections } from "./collections.js";
import { byId, el, toast } from "./dom.js";
import { change } from "./state.js";
import { bytes, count, number, visible } from "./text.js";

const MOST_FILES = 2000;
const MOST_BYTES = 64 * 1024 * 1024;

/** The files of a drop, those in folders too, as [path, File]. */
async function filesOf(transfer) {
  // The list is empty after the first pause, so all entries are taken now.
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (found.length >= MOST_FILES) return;
  if (entry instanceof File) { found.push([entry.name, entry]); return; }
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); }).catch(() => null);
    if (file) found.push([entry.fullPath.replace(/^\//, ""), file]);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const batch = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); }).catch(() => []);
    if (!batch.length) return;
    for (const inner of batch) if (!inner.name.startsWith(".")) await walk(inner, found);
  }
}

/** Send files to the collection that the field names, and follow its sync. */
export async function upload(files) {
  if (!files.length) return;
  const name = byId("drop-name").value.trim() || "uploads";
  change({ tab: "collections" });
  const bar = el("progress", { max: String(files.length), value: "0", "aria-label": "Files sent" });
  const label = el("span", { class: "job-what" });
  const node = el("div", { class: "job" }, el("p", { class: "row" }, label), bar);
  byId("jobs").append(node);
  const problems = [];
  let last = null;
  try {
    await heard();
    if (!collectionsNow().some((one) => one.name === name)) await request("POST", "/collections", { json: { uploads: true, name } });
    for (const [at, [path, file]] of files.entries()) {
      label.textContent = `Sending ${visible(path)} (${number(at + 1)} of ${number(files.length)})`;
      try {
        if (file.size > MOST_BYTES) throw new Error(`has ${bytes(file.size)}: the most is ${bytes(MOST_BYTES)}`);
        const target = `${pathOf("collections", name)}/files${pathOf(...path.split("/"))}`;
        last = await request("PUT", target, { body: file });
      } catch (error) {
        if (error instanceof NoAnswer) throw error;
        problems.push([path, error.message]);
      }
      bar.value = at + 1;
    }
    if (last) {
      toast(`Sent ${count(files.length - problems.length, "file")}.`);
      followJob(last);
    }
  } catch (error) {
    problems.push(["", error instanceof NoAnswer ? "The server went away. Drop the files again when it is back." : error.message]);
  }
  node.remove();
  if (problems.length) tellProblems(problems);
  showCollections();
}

function tellProblems(problems) {
  const node = el("div", { class: "job error", role: "alert" },
    el("p", { class: "row" }, el("span", {}, `${count(problems.length, "file")} could not be added`), el("button", { type: "button", class: "quiet", onclick: () => node.remove() }, "Close")),
    el("ul", { class: "failures" }, problems.slice(0, 20).map(([path, reason]) => el("li", {}, visible(path ? `${path}: ${reason}` : reason)))));
  byId("jobs").append(node);
}

/** Take files that are dropped anywhere on the page, or chosen. */
export function listenToUploads() {
  const veil = byId("drop-veil");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    veil.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) veil.hidden = true; });
  addEventListener("drop", async (event) => {
    veil.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    upload(await filesOf(event.dataTransfer));
  });
  byId("files").addEventListener("change", async () => {
    const files = [...byId("files").files].map((file) => [file.webkitRelativePath || file.name, file]);
    await upload(files);
    byId("files").value = "";
  });
}
