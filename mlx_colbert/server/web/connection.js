/** Whether the server answers. If it does not, a banner says so, and the page tries again by itself. */

import { byId, el } from "./dom.js";

const LONGEST_S = 30;
const listeners = [];
let lost = false;
let wait_s = 1;
let timer;

/** Call a function when the server answers again. */
export const onBack = (listener) => listeners.push(listener);

/** A request got no answer. */
export function noAnswer() {
  if (lost) return;
  lost = true;
  wait_s = 1;
  plan();
}

function plan() {
  let left = Math.round(wait_s);
  const when = el("span", { "aria-hidden": "true" });
  const tell = () => { when.textContent = left > 1 ? `Next try in ${left} s.` : "Trying\u2026"; };
  tell();
  byId("banner").hidden = false;
  if (byId("banner").childElementCount === 0) {
    byId("banner").append(
      el("strong", {}, "The server does not answer."),
      el("span", {}, " Is mlx-colbert serve still running? This page tries again by itself. "),
      el("span", { class: "when" }),
      el("button", { type: "button", onclick: attempt }, "Try now"),
    );
  }
  byId("banner").querySelector(".when").replaceChildren(when);
  clearInterval(timer);
  timer = setInterval(() => {
    left -= 1;
    if (left <= 0) attempt();
    else tell();
  }, 1000);
  wait_s = Math.min(wait_s * 1.7, LONGEST_S);
}

async function attempt() {
  clearInterval(timer);
  try {
    const answer = await fetch("/health", { cache: "no-store" });
    if (answer.status >= 500) throw new Error(answer.statusText);
  } catch {
    plan();
    return;
  }
  lost = false;
  if (byId("banner").contains(document.activeElement)) byId("main").focus();
  byId("banner").hidden = true;
  byId("banner").replaceChildren();
  for (const listener of listeners) listener();
}

addEventListener("online", () => { if (lost) attempt(); });
document.addEventListener("visibilitychange", () => { if (lost && !document.hidden) attempt(); });
