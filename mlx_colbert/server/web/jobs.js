/** Long work of the server: how far it is. */

import { NoAnswer, pathOf, request, respond } from "./api.js";
import { byId, el } from "./dom.js";
import { eventsOf } from "./events.js";
import { count, number, visible } from "./text.js";

const followed = new Map();

/** The id of a job in an answer. */
export const idOf = (answer) => answer.job?.id ?? answer.job;

const ENDED = new Set(["done", "failed"]);

/** Follow a job until it ends. Returns the job. */
export function follow(id) {
  if (!followed.has(id)) {
    const node = line();
    byId("jobs").append(node.root);
    followed.set(id, watch(id, node).finally(() => followed.delete(id)));
  }
  return followed.get(id);
}

/** Take a line away. The focus is not lost with it. */
export function leave(node) {
  const hadFocus = node.contains(document.activeElement);
  node.remove();
  if (hadFocus) byId("main").focus();
}

/** Whether a job is shown. */
export const isFollowed = (id) => followed.has(id);

function line() {
  const label = el("span", { class: "job-what" }, "Waiting…");
  const amount = el("span", { class: "muted" });
  const bar = el("progress", { "aria-label": "Progress", max: "1" });
  const root = el("div", { class: "job" }, el("p", { class: "row" }, label, amount), bar);
  return { root, show(job) {
    label.textContent = visible(`${job.target}: ${job.stage || (job.state === "waiting" ? "waiting" : job.what)}`);
    amount.textContent = job.done && job.total ? `${number(job.done)} of ${number(job.total)}` : job.done ? number(job.done) : "";
    if (job.total) bar.value = job.done / job.total;
    else bar.removeAttribute("value");
  } };
}

async function watch(id, node) {
  let job = { id, target: "", state: "waiting" };
  while (!ENDED.has(job.state)) {
    try {
      const response = await respond("GET", `${pathOf("jobs", id)}/events`);
      for await (const { data } of eventsOf(response)) {
        job = data;
        node.show(job);
        if (ENDED.has(job.state)) break;
      }
      if (!ENDED.has(job.state)) job = await request("GET", pathOf("jobs", id));
    } catch (error) {
      if (!(error instanceof NoAnswer)) { node.root.remove(); throw error; }
      // The server is away: its jobs are gone, or can be followed when it is back.
      await new Promise((resolve) => { setTimeout(resolve, 2000); });
    }
  }
  node.root.remove();
  if (job.state === "failed") byId("jobs").append(failure(job));
  else byId("collections-status").textContent = `${job.target} is ready. ${summary(job.result)}`;
  return job;
}

function failure(job) {
  const reason = typeof job.error === "string" ? job.error : job.error?.detail ?? "The work failed.";
  const node = el("div", { class: "job error", role: "alert" }, el("p", { class: "row" },
    el("span", {}, visible(`${job.target}: ${reason}`)),
    el("button", { type: "button", class: "quiet", onclick: () => leave(node) }, "Close")));
  return node;
}

function summary(result) {
  const n = result?.n_files ?? result?.files;
  return typeof n === "number" ? `${count(n, "file")}.` : "";
}
