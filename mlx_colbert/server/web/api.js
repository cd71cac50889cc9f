/** Requests to the server: key, waiting when it is busy, errors for people. */

import { noAnswer } from "./connection.js";
import { ask, byId, el } from "./dom.js";
import { visible } from "./text.js";

const KEY = "mlx-colbert-key";
const LONGEST_WAIT_S = 30;
const MOST_TRIES = 6;

/** An answer that is not what was asked for. */
export class Problem extends Error {
  constructor(status, detail) {
    // It may repeat what a stranger wrote.
    super(visible(detail));
    this.status = status;
  }
}

/** No answer came. The banner says so already. */
export class NoAnswer extends Error {}

const key = () => { try { return sessionStorage.getItem(KEY); } catch { return null; } };

/** Wait, unless the signal says stop. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

/**
 * The response of the server. A busy server is asked again when it says so.
 * `json`: the body as an object; `body`: as bytes; `onWait`: called with seconds before it waits.
 */
export async function respond(method, path, { json, body, signal, onWait } = {}) {
  for (let tries = 1; ; tries += 1) {
    const headers = { accept: "application/json, text/event-stream" };
    if (json !== undefined) headers["content-type"] = "application/json";
    else if (body !== undefined) headers["content-type"] = "application/octet-stream";
    if (key()) headers.authorization = `Bearer ${key()}`;
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: json === undefined ? body : JSON.stringify(json), cache: "no-store", redirect: "error" });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      noAnswer();
      throw new NoAnswer(error.message);
    }
    if (response.ok) return response;
    if (response.status === 401 && await unlock(Boolean(key()))) continue;
    const busy = response.status === 429 || (response.status === 503 && response.headers.has("retry-after"));
    if (busy && tries < MOST_TRIES) {
      const wait_s = Math.min(Math.max(Number(response.headers.get("retry-after")) || 1, 0.2), LONGEST_WAIT_S);
      onWait?.(wait_s);
      await pause(wait_s, signal);
      continue;
    }
    throw await problem(response);
  }
}

async function problem(response) {
  let detail = "";
  try { detail = (await response.json()).detail; } catch { /* It is no problem+json. */ }
  return new Problem(response.status, typeof detail === "string" && detail ? detail : `The server answered ${response.status}.`);
}

/** The JSON that the server answers. */
export const request = async (method, path, options) => (await respond(method, path, options)).json();

/** A path of names, each of which may have any sign. */
export const pathOf = (...names) => `/${names.map((name) => encodeURIComponent(name)).join("/")}`;

let unlocking;

/** Ask for the key, once for all requests that wait. Whether one was given. */
function unlock(wasWrong) {
  unlocking ??= askForKey(wasWrong).finally(() => { unlocking = undefined; });
  return unlocking;
}

async function askForKey(wasWrong) {
  const input = el("input", { id: "api-key", type: "password", required: true, autocomplete: "off" });
  const answer = await ask(
    byId("unlock"),
    el("form", { method: "dialog" },
      el("h2", { id: "unlock-title" }, "This server needs its key"),
      el("p", {}, wasWrong ? "The server did not accept this key. " : "", "It is the key that mlx-colbert serve was started with. It stays in this tab until you close it."),
      el("label", { for: "api-key" }, "API key"), input,
      el("div", { class: "dialog-row" },
        el("button", { type: "button", onclick: () => byId("unlock").close("") }, "Cancel"),
        el("button", { class: "primary", value: "given" }, "Continue"))),
  );
  if (answer !== "given" || !input.value) return false;
  try { sessionStorage.setItem(KEY, input.value.trim()); } catch { return false; }
  return true;
}
