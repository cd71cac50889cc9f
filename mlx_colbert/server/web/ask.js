/** Questions, and answers that stream in with citations that open their passage. */

import { NoAnswer, Problem, respond } from "./api.js";
import { PREVIEW, addTurn, forgetTurns, said, turnsNow } from "./conversation.js";
import { byId, el } from "./dom.js";
import { eventsOf } from "./events.js";
import { restriction } from "./filters.js";
import { change, link, settle } from "./state.js";
import { apart, appendText, count } from "./text.js";

const CITATION = /[[【]\s?\^?(?:sources?\s|passages?\s)?(\d{1,3}\??(?:\s?[-–,;]\s?\d{1,3}\??)*)\s?[\]】]/gi;

let controller = null;

const linkTo = (source) => link({ tab: "ask", at: source.collection ?? "", open: source.doc_id });

/** The parts of an answer: texts and citations that can be opened. */
function fillAnswer(node, text, sources) {
  node.replaceChildren();
  let end = 0;
  for (const found of text.matchAll(CITATION)) {
    appendText(node, text.slice(end, found.index));
    for (const part of found[1].matchAll(/(\d+)(\??)/g)) node.append(citation(Number(part[1]), sources));
    end = found.index + found[0].length;
  }
  appendText(node, text.slice(end));
}

function citation(number, sources) {
  const source = sources.find((one) => one.number === number);
  if (!source) return el("span", { class: "invented", title: "The language model made this number up: there is no such source" }, `[${number}?]`);
  return el("a", { class: "citation", "aria-label": `Source ${number}`, ...linkTo(source) }, String(number));
}

function sourceItem(source) {
  const text = el("span", { class: "related-text", dir: "auto" });
  appendText(text, (source.text ?? "").slice(0, PREVIEW).replace(/\s+/g, " "));
  return el("li", { value: source.number, "data-source": source.number },
    el("a", linkTo(source), apart(source.place ?? source.doc_id, { class: "path" }), text));
}

/** Why there is no answer, and what helps if there is no language model. */
function failure(error) {
  const isModel = error.status === 501 || error.status === 502;
  return el("div", { role: "alert" },
    el("p", { class: "error" }, error.message),
    isModel ? el("p", { class: "muted" }, "Any server with the interface of OpenAI answers, such as LM Studio or Ollama on this computer: ",
      el("code", {}, "mlx-colbert config set endpoint localhost:1234"), ", then start mlx-colbert serve again.") : null);
}

/** A question above the others, with places for its answer. */
function turnNode(question) {
  const answer = el("div", { class: "answer", dir: "auto" });
  const list = el("ol", { class: "related sources" });
  const title = el("h3", { hidden: true }, "Sources");
  const note = el("p", { class: "muted" });
  const root = el("article", { class: "turn", "aria-label": "Question and answer" },
    el("h2", { class: "asked" }, apart(question)), answer, note, title, list);
  byId("turns").prepend(root);
  byId("ask-clear").hidden = false;
  return {
    answer, note,
    showSources: (sources) => {
      title.hidden = sources.length === 0;
      list.replaceChildren(...sources.map(sourceItem));
    },
    markCited: (cited) => {
      for (const item of list.children) item.toggleAttribute("data-cited", cited.includes(Number(item.dataset.source)));
    },
  };
}

/** Show a turn that is complete. */
function showTurn({ question, answer, note, cited, sources }) {
  const node = turnNode(question);
  fillAnswer(node.answer, answer, sources);
  node.note.textContent = note;
  node.showSources(sources);
  node.markCited(cited);
}

/** What there is to tell of an answer beside its text. */
function noteOf({ finish, invented, sources }) {
  if (!sources.length) return "No language model was asked.";
  const madeUp = invented?.length ? `${count(invented.length, "citation")} made up by the language model.` : "";
  return finish === "length" ? `The answer was cut at its largest length. ${madeUp}`.trim() : madeUp;
}

/** Send a question, and show the answer as it comes. */
async function send(question) {
  controller?.abort();
  controller = new AbortController();
  const { signal } = controller;
  const { answer, note, showSources, markCited } = turnNode(question);
  const stop = el("button", { type: "button", class: "quiet", onclick: () => controller.abort(new DOMException("stopped", "AbortError")) }, "Stop");
  const actions = el("p", { class: "actions" }, stop);
  note.after(actions);
  note.textContent = "Looking for passages…";
  byId("ask-status").textContent = "Looking for passages";
  let sources = [];
  let text = "";
  let frame = 0;
  const paint = () => { frame ||= requestAnimationFrame(() => { frame = 0; fillAnswer(answer, text, sources); }); };
  try {
    const { collections } = restriction();
    const response = await respond("POST", "/ask", {
      signal,
      json: { question, stream: true, ...(collections && { collections }), messages: said() },
      onWait: (wait_s) => { note.textContent = `The server is busy. Trying again in ${Math.ceil(wait_s)} s.`; },
    });
    for await (const { event, data } of eventsOf(response)) {
      if (event === "sources") {
        sources = data.sources;
        showSources(sources);
        note.textContent = sources.length ? "Reading…" : "";
      } else if (event === "text") {
        if (!text) note.textContent = "";
        text += data.text;
        paint();
      } else if (event === "end") {
        text = data.answer ?? text;
        const turn = { question, answer: text, note: noteOf({ ...data, sources }), cited: (data.citations ?? []).map((one) => one.number), sources };
        note.textContent = turn.note;
        markCited(turn.cited);
        addTurn(turn);
        byId("ask-status").textContent = `The answer is complete. ${count(sources.length, "source")}.`;
      } else if (event === "error") throw new Problem(data.status, data.detail);
    }
  } catch (error) {
    note.textContent = signal.aborted ? "Stopped." : error instanceof NoAnswer ? "The server went away. Ask again when it is back." : "";
    if (!signal.aborted && !(error instanceof NoAnswer)) answer.after(failure(error));
    // The next question, or a new conversation, has its own status.
    if (controller?.signal === signal) byId("ask-status").textContent = note.textContent;
  } finally {
    if (document.activeElement === stop) byId("question").focus();
    actions.remove();
    cancelAnimationFrame(frame);
    fillAnswer(answer, text, sources);
  }
}

/** Forget the conversation. */
function clear() {
  controller?.abort();
  controller = null;
  forgetTurns();
  byId("turns").replaceChildren();
  byId("question").focus();
  byId("ask-clear").hidden = true;
  byId("ask-status").textContent = "This is a new conversation.";
}

/** Show what was said in this tab, and listen at the field of questions. Enter asks, and shift with Enter is a new line. */
export function listenToAsk() {
  const field = byId("question");
  const grow = () => {
    field.style.blockSize = "auto";
    field.style.blockSize = `${Math.min(field.scrollHeight + 2, 240)}px`;
  };
  turnsNow().forEach(showTurn);
  byId("ask-clear").addEventListener("click", clear);
  field.addEventListener("input", () => { grow(); change({ q: field.value }, { typing: true }); });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("ask-form").requestSubmit();
  });
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = field.value.trim();
    if (!question) return;
    settle();
    send(question);
  });
}
