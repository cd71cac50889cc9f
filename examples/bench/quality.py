"""Measure retrieval quality on BEIR collections: MaxSim, the same encoder with mean pooling, and BM25.

Every document of a collection is scored (exact search). The only approximation is that document vectors are
stored as float16.

    python examples/bench/quality.py --model demo/answerai-colbert-small-v1 --data scifact nfcorpus
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mlx_colbert import ColBERT, TokenEmbeddings

Array = npt.NDArray[Any]

# Documents encoded at a time. Their float32 vectors take less than 200 MB at 256 tokens and 384 dimensions.
CHUNK_DOCUMENTS = 512
# Queries scored at a time. The float16 documents are converted to float32 once for all of them.
CHUNK_QUERIES = 64
# Ranks that are kept, for Recall@100.
DEPTH = 100
# The BM25 of BEIR's Anserini baseline.
BM25_K1, BM25_B = 0.9, 0.4
# A word for BM25: a run of letters and digits. Each ideograph and kana is a word, because Chinese and
# Japanese have no spaces between words.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
# The normal deviate of a two-sided interval of 95 %.
Z95 = 1.96


@dataclass(frozen=True)
class Collection:
    """A BEIR collection and its judged queries.

    Attributes:
        name: name of its folder.
        doc_ids: N ids, sorted, so that a stable sort by score breaks ties by id.
        texts: N texts, title and text.
        query_ids: B ids of the queries with a relevant document.
        queries: B texts.
        qrels: query id -> document id -> relevance > 0.
    """

    name: str
    doc_ids: list[str]
    texts: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: dict[str, dict[str, int]]


def ndcg(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 10) -> float:
    """The discounted gain of the first k documents over that of the best order, in [0, 1].

    The gain is the relevance itself and the discount log2(rank + 1), as in trec_eval.

    Source: Järvelin & Kekäläinen 2002.

    >>> round(ndcg(["a", "b", "c"], {"b": 1}), 4)
    0.6309
    """
    gains = (relevance.get(doc_id, 0) for doc_id in ranking[:k])
    found = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
    ideal = sorted(relevance.values(), reverse=True)[:k]
    return found / sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ideal, start=1))


def recall(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 100) -> float:
    """The part of the relevant documents that is among the first k, in [0, 1].

    >>> recall(["a", "b"], {"b": 1, "z": 1})
    0.5
    """
    return len(relevance.keys() & set(ranking[:k])) / len(relevance)


def rank(scores: Array, doc_ids: Sequence[str], k: int = DEPTH) -> list[str]:
    """The ids of the k best documents, best first; equal scores keep the order of `doc_ids`.

    Args:
        scores: (N,) float; -inf for a document that is not returned at all.
        doc_ids: N ids.
        k: how many at most.
    """
    order = np.argsort(-scores, kind="stable")[:k]
    return [doc_ids[i] for i in order if scores[i] != -np.inf]


def _lines(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, gzipped or not."""
    path = folder / name
    packed = folder / f"{name}.gz"
    opened = path.open(encoding="utf-8") if path.exists() else gzip.open(packed, mode="rt", encoding="utf-8")
    with opened as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def read_collection(folder: Path, limit_queries: int | None = None) -> Collection:
    """A collection from a folder with corpus.jsonl (or .gz), queries.jsonl and qrels/test.tsv.

    Args:
        folder: the collection.
        limit_queries: the number of judged queries to keep, the first by id. None: all.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    documents = sorted(
        (row["_id"], f"{row.get('title') or ''} {row['text']}".strip())
        for row in _lines(folder, "corpus.jsonl")
    )
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, doc_id, score = line.split("\t")
        if int(score) > 0:
            qrels.setdefault(query_id, {})[doc_id] = int(score)
    queries = sorted(
        (row["_id"], row["text"]) for row in _lines(folder, "queries.jsonl") if row["_id"] in qrels
    )
    queries = queries[:limit_queries]
    return Collection(
        name=folder.resolve().name,
        doc_ids=[doc_id for doc_id, _ in documents],
        texts=[text for _, text in documents],
        query_ids=[query_id for query_id, _ in queries],
        queries=[text for _, text in queries],
        qrels=qrels,
    )


def encode_documents(model: ColBERT, collection: Collection, cache: Path | None) -> TokenEmbeddings:
    """Token embeddings of the documents in float16. They are read from the cache folder if possible."""
    if cache is not None:
        digest = hashlib.sha256(json.dumps([model.fingerprint, collection.texts]).encode()).hexdigest()[:16]
        vectors_path = cache / f"{collection.name}-{digest}-vectors.npy"
        lengths_path = cache / f"{collection.name}-{digest}-lengths.npy"
        # The lengths are written last: if they are there, the vectors are complete.
        if lengths_path.exists():
            return TokenEmbeddings(np.load(vectors_path, mmap_mode="r"), np.load(lengths_path))
    vectors, lengths = [], []
    starts = range(0, len(collection.texts), CHUNK_DOCUMENTS)
    for start in tqdm(starts, desc=f"{collection.name}: encoding documents", unit=f" x {CHUNK_DOCUMENTS}"):
        texts = collection.texts[start : start + CHUNK_DOCUMENTS]
        part = model.encode_document(texts, show_progress=False)
        vectors.append(part.vectors.astype(np.float16))
        lengths.append(part.lengths)
    documents = TokenEmbeddings(np.concatenate(vectors), np.concatenate(lengths))
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        np.save(vectors_path, documents.vectors)
        np.save(lengths_path, documents.lengths)
    return documents


def pooled(embeddings: TokenEmbeddings) -> Array:
    """The mean of each text's token embeddings, at unit norm: (N, D) float32.

    This pools the rows of the public API: unit rows with markers, without skiplist tokens.
    sentence-transformers pools the hidden states before normalisation, so its figures have their own column.
    """
    means = np.stack([rows.mean(axis=0, dtype=np.float32) for rows in embeddings])
    unit: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def maxsim_scores(model: ColBERT, queries: TokenEmbeddings, documents: TokenEmbeddings) -> Iterator[Array]:
    """MaxSim of each query with all documents, (N,) float32 at a time."""
    for start in range(0, len(queries), CHUNK_QUERIES):
        yield from model.similarity(queries[start : start + CHUNK_QUERIES], documents)


def bm25_scores(collection: Collection) -> Iterator[Array]:
    """BM25 of each query with all documents, (N,) float32. -inf for documents that share no word with it.

    Words are in lower case. There is no stemming and no list of stop words.
    """
    import bm25s

    def words(text: str) -> list[str]:
        return WORD.findall(text.lower())

    index = bm25s.BM25(k1=BM25_K1, b=BM25_B)
    index.index([words(text) for text in collection.texts], show_progress=False)
    for query in collection.queries:
        known = [word for word in words(query) if word in index.vocab_dict]
        if not known:
            yield np.full(len(collection.doc_ids), -np.inf, np.float32)
            continue
        scores = index.get_scores(known)
        yield np.where(scores > 0, scores, -np.inf)


def sentence_transformers_scores(checkpoint: str, collection: Collection) -> Iterator[Array]:
    """Cosine of the sentence vectors that sentence-transformers computes, (N,) float32 at a time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(checkpoint, device="cpu")
    queries, documents = (
        model.encode(texts, normalize_embeddings=True, show_progress_bar=True, batch_size=64)
        for texts in (collection.queries, collection.texts)
    )
    for query in queries:
        yield documents @ query


def evaluate(collection: Collection, scores: Iterator[Array], what: str) -> tuple[Array, Array]:
    """nDCG@10 and Recall@100 of each query, (B,) float64 each.

    A document with the id of the query is left out: in some BEIR collections, queries are documents.
    """
    place = {doc_id: number for number, doc_id in enumerate(collection.doc_ids)}
    gains, found = [], []
    rows = zip(collection.query_ids, scores, strict=True)
    for query_id, row in tqdm(rows, total=len(collection.query_ids), desc=f"{collection.name}: {what}"):
        if query_id in place:
            row[place[query_id]] = -np.inf
        ranking = rank(row, collection.doc_ids)
        gains.append(ndcg(ranking, collection.qrels[query_id]))
        found.append(recall(ranking, collection.qrels[query_id]))
    return np.array(gains), np.array(found)


def difference(left: Array, right: Array) -> tuple[float, float]:
    """The mean of left - right over the queries, and the half-width of its 95 % interval."""
    gap = left - right
    return float(gap.mean()), float(Z95 * gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else math.inf


def measure(model: ColBERT, collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one collection, as a JSON object."""
    documents = encode_documents(model, collection, args.cache)
    queries = model.encode_query(collection.queries, show_progress=False)
    centres, points = pooled(documents), pooled(queries)
    scorers = {
        "maxsim": maxsim_scores(model, queries, documents),
        "pooled": (centres @ point for point in points),
        "bm25": bm25_scores(collection),
    }
    if args.sentence_transformers:
        scorers["sentence-transformers"] = sentence_transformers_scores(
            args.sentence_transformers, collection
        )
    results = {name: evaluate(collection, scores, name) for name, scores in scorers.items()}
    row: dict[str, Any] = {
        "collection": collection.name,
        "documents": len(collection.texts),
        "queries": len(collection.queries),
        "document_tokens_mean": float(documents.lengths.mean()),
        "ndcg@10": {name: float(gains.mean()) for name, (gains, _) in results.items()},
        "recall@100": {name: float(found.mean()) for name, (_, found) in results.items()},
    }
    for other in ("pooled", "bm25"):
        gap, half_width = difference(results["maxsim"][0], results[other][0])
        row[f"maxsim-{other}"] = {"ndcg@10": gap, "plus_minus": half_width}
    return row


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a table, one row for each collection."""
    names = list(rows[0]["ndcg@10"])
    head = ["collection", "documents", "queries", *(f"nDCG@10 {name}" for name in names)]
    head += ["MaxSim - pooled", "MaxSim - BM25", *(f"Recall@100 {name}" for name in names)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    for row in rows:
        gaps = [row["maxsim-pooled"], row["maxsim-bm25"]]
        cells = [row["collection"], f"{row['documents']:,}", f"{row['queries']:,}"]
        cells += [f"{row['ndcg@10'][name]:.3f}" for name in names]
        cells += [f"{gap['ndcg@10']:+.3f} ± {gap['plus_minus']:.3f}" for gap in gaps]
        cells += [f"{row['recall@100'][name]:.3f}" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in ("mlx-colbert", "numpy", "mlx", "tokenizers", "bm25s", "sentence-transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="a converted model folder, or a checkpoint")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="collection folders")
    parser.add_argument("--backend", default="auto", choices=["auto", "mlx", "numpy"])
    parser.add_argument("--limit-queries", type=int, help="the first judged queries by id (default: all)")
    parser.add_argument("--cache", type=Path, help="folder that keeps document vectors, such as .cache/bench")
    parser.add_argument(
        "--sentence-transformers",
        metavar="CHECKPOINT",
        help="also evaluate this checkpoint as sentence-transformers pools it (needs torch)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of the collections."""
    args = parse_args(argv)
    model = ColBERT.load(args.model, backend=args.backend)
    rows = []
    for folder in args.data:
        rows.append(measure(model, read_collection(folder, args.limit_queries), args))
        # A long run shows its results so far.
        print(markdown(rows[-1:]).splitlines()[-1], file=sys.stderr)
    if args.json:
        report = {"device": model.device, "fingerprint": model.fingerprint, "versions": versions()}
        print(json.dumps({**report, "collections": rows}, indent=1))
    else:
        print(markdown(rows))
        print(f"\n{model.device}; {', '.join(f'{name} {number}' for name, number in versions().items())}")


if __name__ == "__main__":
    main()
