"""Add, replace and delete documents of an index. They are still there after it is closed and opened again.

python examples/03_update.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from mlx_colbert import ColBERT, Retriever

DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo" / "answerai-colbert-small-v1"


def show(retriever: Retriever, question: str) -> None:
    """Print the best two documents."""
    print(f"   {len(retriever)} documents. {question}")
    for hit in retriever.search(question, k=2):
        print(f"   {hit.rank}. {hit.doc_id}: {hit.text}  {dict(hit.metadata or {})}")


def main() -> None:
    """Print the index after each change."""
    parser = argparse.ArgumentParser(description="Add, replace and delete documents of an index.")
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="folder or hub id (default: demo/answerai-colbert-small-v1)"
    )
    model_path = parser.parse_args().model
    if model_path == DEMO_MODEL and not DEMO_MODEL.is_dir():
        sys.exit(
            "demo/answerai-colbert-small-v1 is not there. Run `make demo`, or name a model with --model."
        )

    model = ColBERT.load(model_path)
    question = "When does the library open on Saturday?"
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "town.index"
        with Retriever.create(path, model) as retriever:
            print("1. add three documents")
            retriever.add(
                [
                    "The library opens at ten on Saturday.",
                    "The pool is closed on Mondays.",
                    "Bus 7 runs hourly.",
                ],
                ["library", "pool", "bus"],
                metadata=[{"year": 2024}, {"year": 2024}, None],
            )
            show(retriever, question)
            print("2. upsert: replace one, add another")
            retriever.upsert(
                ["The library opens at nine on Saturday.", "The market is held on Saturday mornings."],
                ["library", "market"],
                metadata=[{"year": 2025}, {"year": 2025}],
            )
            show(retriever, question)
            print("3. delete one")
            retriever.delete(["market"])
        # Each change is on the disk when its method returns. There is no save.
        print("4. close and reopen")
        with Retriever.open(path, model) as retriever:
            show(retriever, question)
            print(f"   'market' in index: {'market' in retriever}; 'pool' in index: {'pool' in retriever}")


if __name__ == "__main__":
    main()
