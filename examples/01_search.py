"""Search six documents in memory: encode, score, sort.

python examples/01_search.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlx_colbert import ColBERT

DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo" / "answerai-colbert-small-v1"
QUESTION = "Who wrote 'To Kill a Mockingbird'?"
DOCUMENTS = [
    "'To Kill a Mockingbird' is a novel by Harper Lee published in 1960. It was immediately successful, "
    "winning the Pulitzer Prize, and has become a classic of modern American literature.",
    "The novel 'Moby-Dick' was written by Herman Melville and first published in 1851. It is considered "
    "a masterpiece of American literature and deals with complex themes of obsession, revenge, and the "
    "conflict between good and evil.",
    "Harper Lee, an American novelist widely known for her novel 'To Kill a Mockingbird', was born in "
    "1926 in Monroeville, Alabama. She received the Pulitzer Prize for Fiction in 1961.",
    "Jane Austen was an English novelist known primarily for her six major novels, which interpret, "
    "critique and comment upon the British landed gentry at the end of the 18th century.",
    "The 'Harry Potter' series, which consists of seven fantasy novels written by British author J.K. "
    "Rowling, is among the most popular and critically acclaimed books of the modern era.",
    "'The Great Gatsby', a novel written by American author F. Scott Fitzgerald, was published in 1925. "
    "The story is set in the Jazz Age and follows the life of millionaire Jay Gatsby and his pursuit of "
    "Daisy Buchanan.",
]


def main() -> None:
    """Print the documents, best first."""
    parser = argparse.ArgumentParser(description="Search six documents in memory.")
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="folder or hub id (default: demo/answerai-colbert-small-v1)"
    )
    model_path = parser.parse_args().model
    if model_path == DEMO_MODEL and not DEMO_MODEL.is_dir():
        sys.exit(
            "demo/answerai-colbert-small-v1 is not there. Run `make demo`, or name a model with --model."
        )

    model = ColBERT.load(model_path)
    query = model.encode_query(QUESTION)
    documents = model.encode_document(DOCUMENTS)
    scores = model.similarity(query, documents)[0]

    print(f"{QUESTION}  ({len(query)} vectors of {model.dim} numbers, computed on {model.device})")
    for number in scores.argsort()[::-1]:
        print(f"{scores[number]:7.3f}  document {number}  {DOCUMENTS[number][:70]}...")


if __name__ == "__main__":
    main()
