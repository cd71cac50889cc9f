"""Answer a question from an index with a local language model, and list the sources.

    python examples/fetch_models.py SmolLM2-135M-Instruct
    python examples/06_rag.py "When did the last ice age end?"

The language model runs through mlx-lm: pip install 'mlx-colbert[rag]', on Linux [rag,cpu] or [rag,cuda]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlx_colbert import Hit, Retriever

ROOT = Path(__file__).resolve().parent.parent
DEMO_INDEX = ROOT / "demo" / "index"
# Small enough for any machine, but often wrong.
SMOLLM2 = ROOT / ".cache" / "SmolLM2-135M-Instruct"
LARGER = "mlx-community/Qwen3-4B-4bit"


def build_prompt(question: str, hits: Sequence[Hit]) -> str:
    """The instruction, the passages numbered from 1, and the question."""
    passages = "\n\n".join(f"[{number}] {hit.text}" for number, hit in enumerate(hits, start=1))
    return (
        "Answer the question from the passages only, in one or two sentences. After each statement, give "
        "the number of its passage, as in [1]. If the passages do not answer the question, say so."
        f"\n\n{passages}\n\nQuestion: {question}\nAnswer:"
    )


def cited_numbers(answer: str, n_passages: int) -> list[int]:
    """The numbers in 1..n_passages that an answer cites as [1] or [1, 2], each once, in the order cited.

    >>> cited_numbers("Green [2], as leaves are [1, 2]; see [9].", 3)
    [2, 1]
    """
    numbers = [int(n) for group in re.findall(r"\[([\d,\s]+)\]", answer) for n in re.findall(r"\d+", group)]
    return [number for number in dict.fromkeys(numbers) if 1 <= number <= n_passages]


def stream_answer(llm: str, prompt: str) -> Iterator[str]:
    """The pieces of the answer, while the language model writes them."""
    from mlx_lm import load, stream_generate

    model, tokenizer = load(llm)
    if tokenizer.has_chat_template:
        # Without enable_thinking=False, Qwen3 first writes a long reasoning. Other models ignore the setting.
        messages = [{"role": "user", "content": prompt}]
        options = {"add_generation_prompt": True, "tokenize": False, "enable_thinking": False}
        prompt = tokenizer.apply_chat_template(messages, **options)
    for response in stream_generate(model, tokenizer, prompt, max_tokens=300):
        yield response.text


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

    with Retriever.open(args.index, args.model) as retriever:
        hits = retriever.search(args.question, k=args.k)
    print(args.question)
    answer = ""
    try:
        for piece in stream_answer(str(args.llm), build_prompt(args.question, hits)):
            answer += piece
            print(piece, end="", flush=True)
    except ImportError as error:
        sys.exit(
            f"The answer needs mlx-lm ({error}). Install it with: pip install 'mlx-colbert[rag]'; "
            "on Linux with: pip install 'mlx-colbert[rag,cpu]', or [rag,cuda]"
        )
    print("\n\nSources (* is cited):")
    cited = cited_numbers(answer, len(hits))
    for number, hit in enumerate(hits, start=1):
        mark = "*" if number in cited else " "
        print(f"{mark} [{number}] {hit.doc_id}: {' '.join((hit.text or '').split())[:90]}...")


if __name__ == "__main__":
    main()
