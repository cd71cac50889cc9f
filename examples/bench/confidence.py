"""Measure the confidence of a hit: how often a search is silent where it should be, and where it should not.

Each question is asked three times of a collection (exact search): of all of it; without the documents that
answer the question; and, for the questions of the other collections, of documents about something else.

    python examples/bench/confidence.py --model demo/answerai-colbert-small-v1 --data xquad-en medquad
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_colbert import ColBERT, TokenEmbeddings
from mlx_colbert.collection.confidence import THRESHOLD, Asked, Calibration, evidence, random_evidence

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Questions:
    """Documents, and questions that they answer.

    Attributes:
        name: name of the folder.
        texts: id -> text of each document.
        questions: id -> text of each question.
        answers: id of each question -> ids of the documents that answer it.
    """

    name: str
    texts: dict[str, str]
    questions: dict[str, str]
    answers: dict[str, set[str]]


def load(folder: Path, *, n_questions: int, n_documents: int) -> Questions:
    """A random part of a collection in BEIR layout, with all documents that answer its questions."""
    answers: dict[str, set[str]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        question, document, relevance = line.split("\t")
        if int(relevance) > 0:
            answers.setdefault(question, set()).add(document)
    rng = random.Random(0)
    chosen = rng.sample(sorted(answers), min(n_questions, len(answers)))
    answers = {question: answers[question] for question in chosen}
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in _rows(folder / "corpus.jsonl")}
    needed = set().union(*answers.values())
    others = [doc_id for doc_id in texts if doc_id not in needed]
    kept = needed | set(rng.sample(others, max(0, min(n_documents - len(needed), len(others)))))
    questions = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl") if row["_id"] in answers}
    return Questions(
        folder.name, {name: text for name, text in texts.items() if name in kept}, questions, answers
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


class Documents:
    """The token embeddings of documents, for exact search."""

    def __init__(self, ids: Sequence[str], embeddings: TokenEmbeddings) -> None:
        self.ids = np.array(ids)
        self.embeddings = embeddings

    def best(self, query: Array, k: int, without: Collection[str] = ()) -> list[Array]:
        """The token embeddings of the k best documents for a query, without some documents."""
        maxima = np.maximum.reduceat(query @ self.embeddings.vectors.T, self.embeddings.offsets[:-1], axis=1)
        scores = np.where(np.isin(self.ids, list(without)), -np.inf, maxima.sum(axis=0))
        return [self.embeddings[int(position)] for position in np.argsort(-scores)[:k]]


def auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """The share of pairs in which the value that should be higher is.

    >>> auc([0.9, 0.4], [0.4, 0.1])
    0.875
    """
    pairs = np.asarray(higher)[:, None] - np.asarray(lower)[None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def main() -> None:
    """Print a table, and write all confidences as JSON if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", nargs="+", required=True, type=Path, help="folders in BEIR layout")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--json", type=Path, help="write the evidence of each question to this file")
    args = parser.parse_args()
    model = ColBERT.load(args.model, backend=args.backend)
    sets = [load(folder, n_questions=args.questions, n_documents=args.documents) for folder in args.data]
    asked = {
        item.name: [
            Asked(text, model, vectors)
            for text, vectors in zip(
                item.questions.values(), model.encode_query(list(item.questions.values())), strict=True
            )
        ]
        for item in sets
    }
    results = {}
    columns = ("collection", "documents", "random queries", "wrongly silent", "silent without the answer")
    columns += ("silent on other questions", "AUC without the answer", "AUC other questions")
    print(f"threshold {THRESHOLD}\n\n| {' | '.join(columns)} |\n|---{'|--:' * 7}|")
    for item in sets:
        documents = Documents(list(item.texts), model.encode_document(list(item.texts.values())))
        calibration = Calibration(mean=random_evidence(model, partial(map, partial(documents.best, k=9))))
        found: dict[str, list[float]] = {"answerable": [], "without": [], "other": []}
        for question, query in zip(item.questions, asked[item.name], strict=True):
            for name, without in (("answerable", set()), ("without", item.answers[question])):
                (passage,) = documents.best(query.vectors, 1, without)
                found[name].append(evidence(*query.similarities(passage)))
        for other in sets:
            if other is not item:
                for query in asked[other.name]:
                    found["other"].append(evidence(*query.similarities(documents.best(query.vectors, 1)[0])))
        results[item.name] = {"mean": calibration.mean, **found}
        sure = {name: [calibration.confidence(value) for value in values] for name, values in found.items()}
        silent = {
            name: np.mean(np.array(values) < THRESHOLD) if values else np.nan for name, values in sure.items()
        }
        areas = [
            auc(sure["answerable"], sure[name]) if sure[name] else np.nan for name in ("without", "other")
        ]
        print(
            f"| {item.name} | {len(item.texts):,} | {calibration.mean:.2f} | {silent['answerable']:.1%} | "
            f"{silent['without']:.1%} | {silent['other']:.1%} | {areas[0]:.3f} | {areas[1]:.3f} |",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
