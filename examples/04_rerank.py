"""Rerank the results of a keyword search. No index is needed, and only the candidates are encoded.

python examples/04_rerank.py
python examples/04_rerank.py "Who was the founder of the Oracle Corporation?"
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from mlx_colbert import ColBERT

HERE = Path(__file__).resolve().parent
DEMO_MODEL = HERE.parent / "demo" / "answerai-colbert-small-v1"
CORPUS = HERE / "data" / "xquad-en" / "corpus.jsonl"


def words(text: str) -> set[str]:
    """The set of words of a text, in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def main() -> None:
    """Print the candidates in the order of the keywords, then in the order of the model."""
    parser = argparse.ArgumentParser(description="Rerank the results of a keyword search.")
    parser.add_argument("question", nargs="?", default="Where is corporal punishment no longer practiced?")
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="folder or hub id (default: demo/answerai-colbert-small-v1)"
    )
    args = parser.parse_args()
    if args.model == DEMO_MODEL and not DEMO_MODEL.is_dir():
        sys.exit(
            "demo/answerai-colbert-small-v1 is not there. Run `make demo`, or name a model with --model."
        )

    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    texts = {record["_id"]: record["text"] for record in map(json.loads, lines)}
    # The simplest keyword search: count the words that a text and the question share.
    shared = {doc_id: len(words(args.question) & words(text)) for doc_id, text in texts.items()}
    candidates = sorted(shared, key=lambda doc_id: -shared[doc_id])[:10]

    print(f"{args.question}\n\nby shared words")
    for doc_id in candidates[:3]:
        print(f"{shared[doc_id]:7}  {doc_id:5} {texts[doc_id][:85]}...")

    model = ColBERT.load(args.model)
    hits = model.rerank(args.question, [texts[doc_id] for doc_id in candidates], k=3, doc_ids=candidates)
    print(f"\nthe best {len(candidates)} of them, reranked")
    for hit in hits:
        was = candidates.index(hit.doc_id) + 1
        print(f"{hit.score:7.3f}  {hit.doc_id:5} {(hit.text or '')[:70]}...  (was number {was})")


if __name__ == "__main__":
    main()
