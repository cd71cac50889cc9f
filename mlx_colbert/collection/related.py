"""Passages that are related to a passage, and why a passage was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_colbert.checks import check_k, check_text
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import Asked, Calibration, evidence
from mlx_colbert.collection.hits import CollectionHit, Match, located
from mlx_colbert.collection.matches import matches, medians, word_spans
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.documents.passage import encoded_text
from mlx_colbert.errors import CollectionError, IndexStoreError
from mlx_colbert.index import Filter, Index
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Hit, TokenEmbeddings

__all__ = ["Explanation", "WordMatch", "explain", "like_vectors", "similar"]


@dataclass(frozen=True)
class WordMatch:
    """A word of a query, and the word of the passage that answers it best.

    Attributes:
        query_word: the word of the query.
        passage_word: the word of the passage, or of a heading above it. Empty: a special token.
        in_heading: whether it is in a heading.
        similarity: the similarity of their tokens, in [-1, 1].
        above: how far this is above the similarity to the middle token of the passage, in [0, 2]. It is small
            for words such as "the", which are near to everything.
    """

    query_word: str
    passage_word: str
    in_heading: bool
    similarity: float
    above: float


@dataclass(frozen=True)
class Explanation:
    """Why a passage answers a query, or does not.

    Attributes:
        words: what answers each word of the query, in their order.
        similarity: as for `CollectionHit`.
        confidence: as for `CollectionHit`. None: the calibration is not known.
        matches: as for `CollectionHit`.
    """

    words: list[WordMatch]
    similarity: float
    confidence: float | None
    matches: tuple[Match, ...]


def explain(
    retriever: Retriever, query: str, hit: Hit, *, calibration: Calibration | None = None
) -> Explanation:
    """Which word of a query met which word of a passage.

    Args:
        retriever: the model and the index of the passage.
        query: the query. It must not be blank.
        hit: the passage, as `find_passage` or `passage_of` returns it.
        calibration: the calibration of its collection. None: it has none, and so there is no confidence.

    Raises:
        InputError: if the query is blank.
        CheckpointError: if the model cannot be loaded.
    """
    check_text(query, "the query")
    model = retriever.model
    asked = Asked(query, model, model.encode_query(query))
    text = encoded_text(hit.text or "", hit.position)
    first = len(text) - len(hit.text or "")
    vectors = retriever.store.embeddings([hit.doc_id])[0]
    spans = model.token_spans(text, "document")
    if len(spans) != len(vectors):
        # Pooled vectors stand for no piece of the text.
        vectors = model.encode_document(text)
    similarities, typical = asked.similarities(vectors)
    middle = medians(typical)
    above = np.maximum(similarities.max(axis=1) - middle, 0)
    best: dict[int, int] = {}
    for row, number in enumerate(asked.word_numbers):
        if number not in best or above[row] > above[best[number]]:
            best[number] = row
    names = [query[start:end] for start, end in word_spans(query)]
    found = []
    for number, row in sorted(best.items()):
        column = int(similarities[row].argmax())
        start, word = _word_at(text, spans[column])
        name = names[number] if number < len(names) else query
        found.append(
            WordMatch(name, word, start < first, float(similarities[row, column]), float(above[row]))
        )
    confidence = None
    if calibration is not None:
        confidence = calibration.confidence(evidence(similarities, typical))
    similarity = float((asked.vectors @ vectors.T).max(axis=1).mean())
    answers = matches(text, spans, similarities, typical, asked.word_numbers, first=first)
    return Explanation(found, similarity, confidence, tuple(answers))


def _word_at(text: str, span: tuple[int, int]) -> tuple[int, str]:
    """The beginning of the word that a token is in, and the word. Empty for a special token."""
    if span[0] == span[1]:
        return len(text), ""
    for start, end in word_spans(text):
        if start <= span[0] < end:
            return start, text[start:end]
    return span[0], text[span[0] : span[1]].strip()


def similar(
    collections: Sequence[Collection],
    collection: Collection,
    passage: CollectionHit,
    k: int = 10,
    *,
    restriction: Restriction | None = None,
) -> list[CollectionHit]:
    """The k passages that are most like a passage, best first. The passage itself is not among them.

    The passage is the query. Its stored vectors are used, so nothing is encoded.

    Args:
        collections: where to look. Those that have another model than the passage are left out.
        collection: the collection of the passage.
        passage: the passage, as `find_passage` returns it.
        k: the most passages to return.
        restriction: which passages may be found. None: all.

    Raises:
        InputError: if an argument cannot be used.
        IndexStoreError: if the collection of the passage cannot be used.
    """
    k = check_k(k)
    restriction = restriction or Restriction()
    queries = collection.index.embeddings([passage.doc_id])
    model = collection.index.model or {}
    found: list[CollectionHit] = []
    for other in collections:
        is_own = other.place.path == collection.place.path
        try:
            if (other.index.model or {}).get("fingerprint") != model.get("fingerprint"):
                continue
            condition = restriction.filter_for(other)
            allowed = restriction.matching(other, condition)
            own_id = passage.doc_id if is_own else None
            hits = like_vectors(other.index, queries, k, own_id, filter=condition, doc_ids=allowed)
        except (CollectionError, IndexStoreError):
            if is_own:
                raise
            continue
        found += [dataclasses.replace(located(hit, other), similarity=hit.score) for hit in hits]
    found.sort(key=lambda hit: -hit.score)
    return [dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(found[:k], start=1)]


def like_vectors(
    index: Index,
    vectors: TokenEmbeddings,
    k: int,
    own_id: str | None,
    *,
    filter: Filter | str | None = None,
    doc_ids: Sequence[str] | None = None,
) -> list[Hit]:
    """The k passages of an index that are most like a passage. A score is the mean similarity of its tokens.

    Args:
        index: the index.
        vectors: the token embeddings of the one passage.
        k: the most passages to return.
        own_id: the id of that passage, which is left out. None: it is in another index.
        filter: a condition on the metadata.
        doc_ids: find only these passages.
    """
    hits = index.search(vectors, k + (own_id is not None), filter=filter, doc_ids=doc_ids)[0]
    others = [hit for hit in hits if hit.doc_id != own_id][:k]
    return [
        dataclasses.replace(hit, rank=rank, score=hit.score / len(vectors.vectors))
        for rank, hit in enumerate(others, start=1)
    ]
