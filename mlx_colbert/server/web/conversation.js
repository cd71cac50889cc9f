/** The questions and answers of this tab. A reload leaves them as they are. */

const KEY = "mlx-colbert-conversation";
const MOST_TURNS = 30;
// A browser keeps about 5,000,000 signs of all that the pages of a server keep in a tab.
const MOST_SIGNS = 1_000_000;
// Questions and answers that go along with the next question.
const MOST_SAID = 20;
// Signs of a source that are shown.
export const PREVIEW = 240;

const isTurn = (turn) => typeof turn?.question === "string" && typeof turn.answer === "string" && Array.isArray(turn.sources) && Array.isArray(turn.cited);

function kept() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(isTurn) : [];
  } catch {
    return [];
  }
}

let turns = kept();

/** A source as short as it is shown. */
const previewed = ({ number, collection, doc_id, place, text }) => ({ number, collection, doc_id, place, text: (text ?? "").slice(0, PREVIEW) });

function keep() {
  let text = JSON.stringify(turns);
  while (turns.length > MOST_TURNS || (turns.length && text.length > MOST_SIGNS)) {
    turns.shift();
    text = JSON.stringify(turns);
  }
  try { sessionStorage.setItem(KEY, text); } catch { /* It holds until the page is loaded again. */ }
}

/** The turns, the oldest first: { question, answer, note, cited, sources }. */
export const turnsNow = () => turns;

/** Add a turn that is complete. */
export function addTurn({ sources, ...turn }) {
  turns.push({ ...turn, sources: sources.map(previewed) });
  keep();
}

/** Forget all turns. */
export function forgetTurns() {
  turns = [];
  try { sessionStorage.removeItem(KEY); } catch { /* Nothing was kept. */ }
}

/** What was said, for the next question. Only what was answered from passages. */
export function said() {
  const answered = turns.filter((turn) => turn.sources.length);
  return answered.flatMap(({ question, answer }) => [{ role: "user", content: question }, { role: "assistant", content: answer }]).slice(-MOST_SAID);
}
