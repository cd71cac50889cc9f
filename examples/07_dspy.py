"""Answer a question from an index with DSPy. A DSPy program may call any function as its retriever.

    pip install dspy
    python examples/07_dspy.py "When did the last ice age end?" --lm ollama_chat/qwen3:4b

--lm is a name of LiteLLM. For a server on this machine that is like OpenAI's, add --api-base:
--lm openai/NAME --api-base http://127.0.0.1:8080/v1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlx_colbert import Retriever

DEMO_INDEX = Path(__file__).resolve().parent.parent / "demo" / "index"


def main() -> None:
    """Print the answer, then the passages that it was made from."""
    parser = argparse.ArgumentParser(description="Answer a question from an index with DSPy.")
    parser.add_argument("question", nargs="?", default="When did the last ice age end?")
    parser.add_argument("--index", type=Path, default=DEMO_INDEX, help="default: demo/index")
    parser.add_argument("--lm", default="ollama_chat/qwen3:4b", help="default: ollama_chat/qwen3:4b")
    parser.add_argument("--api-base", help="the URL of the server of the language model")
    parser.add_argument("-k", type=int, default=2, help="number of passages to answer from (default: 2)")
    args = parser.parse_args()
    if args.index == DEMO_INDEX and not DEMO_INDEX.is_dir():
        sys.exit("demo/index is not there. Run `make demo`, or name an index with --index.")
    try:
        import dspy
    except ImportError:
        sys.exit("DSPy is not installed. Install it with: pip install dspy")

    class Answer(dspy.Module):  # type: ignore[misc]
        """Finds passages, then answers from them."""

        def __init__(self, retriever: Retriever) -> None:
            super().__init__()
            self.retriever = retriever
            self.respond = dspy.Predict("context: list[str], question: str -> answer: str")

        def forward(self, question: str) -> dspy.Prediction:
            hits = self.retriever.search(question, args.k)
            found = self.respond(context=[hit.text for hit in hits], question=question)
            return dspy.Prediction(answer=found.answer, hits=hits)

    # The servers of local models want a key, but any will do.
    local = {"api_base": args.api_base, "api_key": "none"} if args.api_base else {}
    dspy.configure(lm=dspy.LM(args.lm, **local))
    with Retriever.open(args.index) as retriever:
        result = Answer(retriever)(question=args.question)
    print(f"{args.question}\n{result.answer}\n\nSources:")
    for hit in result.hits:
        print(f"  {hit.doc_id}: {' '.join((hit.text or '').split())[:90]}...")


if __name__ == "__main__":
    main()
