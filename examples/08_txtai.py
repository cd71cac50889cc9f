"""Rerank the results of txtai. Its keyword index finds candidates, a ColBERT puts them in order.

pip install txtai
python examples/08_txtai.py "Where is corporal punishment no longer practiced?"
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mlx_colbert import ColBERT

HERE = Path(__file__).resolve().parent
DEMO_MODEL = HERE.parent / "demo" / "answerai-colbert-small-v1"
CORPUS = HERE / "data" / "xquad-en" / "corpus.jsonl"


def main() -> None:
    """Print the best results of the keyword index, then those of the reranker."""
    parser = argparse.ArgumentParser(description="Rerank the results of txtai.")
    parser.add_argument("question", nargs="?", default="Where is corporal punishment no longer practiced?")
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="folder or hub id (default: demo/answerai-colbert-small-v1)"
    )
    args = parser.parse_args()
    if args.model == DEMO_MODEL and not DEMO_MODEL.is_dir():
        sys.exit(
            "demo/answerai-colbert-small-v1 is not there. Run `make demo`, or name a model with --model."
        )
    try:
        from txtai import Embeddings
        from txtai.pipeline import Reranker
    except ImportError:
        sys.exit("txtai is not installed. Install it with: pip install txtai")

    model = ColBERT.load(args.model)

    def similarity(query: str, texts: list[str]) -> list[tuple[int, float]]:
        """The number and the score of each text, as txtai's Similarity returns them."""
        return [(int(hit.doc_id), hit.score) for hit in model.rerank(query, texts)]

    embeddings = Embeddings(keyword=True, content=True)
    records = map(json.loads, CORPUS.read_text(encoding="utf-8").splitlines())
    embeddings.index((record["_id"], record["text"], None) for record in records)
    reranker = Reranker(embeddings, similarity)

    for name, results in (
        ("by keywords", embeddings.search(args.question, 3)),
        ("reranked", reranker(args.question, limit=3, factor=10)),
    ):
        print(name)
        for result in results:
            print(f"{result['score']:7.3f}  {result['id']:5} {result['text'][:80]}...")


if __name__ == "__main__":
    main()
