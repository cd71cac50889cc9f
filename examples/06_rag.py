"""Answer a question from an index with a local language model, and list the sources.

    python examples/fetch_models.py SmolLM2-135M-Instruct
    python examples/06_rag.py "When did the last ice age end?"

The language model runs through mlx-lm: pip install 'mlx-colbert[rag]', on Linux [rag,cpu] or [rag,cuda].
`mlx-colbert ask` does the same on the command line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlx_colbert import Conversation, Retriever, open_language_model
from mlx_colbert.errors import BackendError

ROOT = Path(__file__).resolve().parent.parent
DEMO_INDEX = ROOT / "demo" / "index"
# Small enough for any machine, but often wrong.
SMOLLM2 = ROOT / ".cache" / "SmolLM2-135M-Instruct"
LARGER = "mlx-community/Qwen3-4B-4bit"


def main() -> None:
    """Print the answer while it is written, then the sources."""
    parser = argparse.ArgumentParser(description="Answer a question from an index, with citations.")
    parser.add_argument("question", nargs="?", default="When did the last ice age end?")
    parser.add_argument("--index", type=Path, default=DEMO_INDEX, help="default: demo/index")
    parser.add_argument("--model", help="folder or hub id (default: the model that the index was made with)")
    parser.add_argument("-k", type=int, default=2, help="number of passages to answer from (default: 2)")
    parser.add_argument(
        "--llm", default=SMOLLM2, help=f"folder or hub id for mlx-lm, {LARGER} for example (default: SmolLM2)"
    )
    args = parser.parse_args()
    if args.index == DEMO_INDEX and not DEMO_INDEX.is_dir():
        sys.exit("demo/index is not there. Run `make demo`, or name an index with --index.")
    if args.llm == SMOLLM2 and not SMOLLM2.is_dir():
        sys.exit(
            "SmolLM2 is not there. Run `python examples/fetch_models.py SmolLM2-135M-Instruct`, "
            f"or name a language model with --llm: {LARGER} is better."
        )
    try:
        llm = open_language_model(str(args.llm))
    except BackendError as error:
        sys.exit(str(error))

    with Retriever.open(args.index, args.model) as retriever:
        conversation = Conversation(lambda question, k: retriever.search(question, k), llm, k=args.k)
        reply = conversation.ask(args.question)
        print(args.question)
        for piece in reply:
            print(piece, end="", flush=True)

    print("\n\nSources (* is cited):")
    cited = {citation.number for citation in reply.answer.citations}
    for number, excerpt in enumerate(reply.answer.excerpts, start=1):
        mark = "*" if number in cited else " "
        print(f"{mark} [{number}] {excerpt.place}: {' '.join(excerpt.text.split())[:90]}...")


if __name__ == "__main__":
    main()
