"""Search in one, several or all collections: by meaning and by words, merged to one ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from mlx_colbert.checks import check_choice, check_k, check_text
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import THRESHOLD, Asked, calibration_of, evidence
from mlx_colbert.collection.fresh_search import found_in_step
from mlx_colbert.collection.hits import CollectionHit, located
from mlx_colbert.collection.matches import keyword_matches, matches, shading, word_spans
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.collection.source_files import with_surroundings
from mlx_colbert.counts import counted
from mlx_colbert.documents.passage import encoded_text
from mlx_colbert.errors import (
    CollectionError,
    CollectionNotFoundError,
    IndexStoreError,
    message_of,
)
from mlx_colbert.index import Filter
from mlx_colbert.retriever.fusion import reciprocal_rank_fusion
from mlx_colbert.retriever.retriever import Mode
from mlx_colbert.types import Array, Hit, TokenEmbeddings

if TYPE_CHECKING:
    from mlx_colbert.model.tokenizer import TokenizedTexts

__all__ = ["Found", "search"]

# The least number of hits that is read from each ranking before they are merged.
_DEPTH = 50
# The least number of hits whose confidence is found out, if those with less than enough are left out.
_LEAST_JUDGED = 10


@dataclass
class Found:
    """What a search has found.

    Attributes:
        query: the query.
        hits: the hits, best first.
        n_below: number of hits that were left out because their confidence was too low.
        best_below: the highest confidence among them. None: none was left out.
        notes: what the user should know, one sentence each.
    """

    query: str
    hits: list[CollectionHit] = field(default_factory=list)
    n_below: int = 0
    best_below: float | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """It as a JSON object. "query_words" has the places of the words of the query in it."""
        return {
            "query": self.query,
            "hits": [hit.to_dict() for hit in self.hits],
            "below": self.n_below,
            "best_below": self.best_below,
            "notes": self.notes,
            "query_words": [
                {"start": start, "end": end, "text": self.query[start:end]}
                for start, end in word_spans(self.query)
            ],
        }


@dataclass(frozen=True)
class _Shown:
    """What is found out about each hit.

    Attributes:
        matches: whether the words that answer are wanted.
        words: whether all words are, with how much they answer.
        n_lines: the most lines around it, on each side. None: none.
    """

    matches: bool
    words: bool
    n_lines: int | None


@dataclass
class _Part:
    """A collection that is searched.

    Attributes:
        collection: the collection.
        number: its number among those of the search.
        filter: the passages that may be found.
        doc_ids: the only ids that may be found. None: there is no such limit.
    """

    collection: Collection
    number: int
    filter: Filter | None
    doc_ids: list[str] | None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its model."""
        return (self.collection.index.model or {}).get("fingerprint", "")

    def marked(self, hit: Hit) -> str:
        """The id of a hit, with the collection: two collections may have the same id."""
        return f"{self.number}\0{hit.doc_id}"


def search(
    collections: Sequence[Collection],
    query: str,
    k: int = 10,
    *,
    mode: Mode = "hybrid",
    restriction: Restriction | None = None,
    min_confidence: float | None = THRESHOLD,
    with_matches: bool = False,
    with_words: bool = False,
    n_lines: int | None = None,
    refresh_s: float | None = None,
) -> Found:
    """The k best passages of collections for a query.

    Collections with the same model are ranked together by their MaxSim. Collections with different models,
    and the rankings by words, are merged by rank.

    Args:
        collections: one collection or more. One that has no index is left out, unless it is the only one. A
            note says so, but not if its last sync found no text: there is nothing to find in it.
        query: the query. It must not be blank.
        k: the most hits to return.
        mode: "semantic", "keyword" or "hybrid", as for `Retriever.search`. A keyword search loads no model.
        restriction: which passages may be found. None: all.
        min_confidence: hits with a lower confidence are left out. None: none is left out. A keyword search
            has no confidence.
        with_matches: find the words of each hit that answer the query.
        with_words: find how much each word of each hit answers it.
        n_lines: find the lines of the file around each hit, at most so many on each side. None: do not.
        refresh_s: seconds to bring the collections in step with their files first. None: search as they are.

    Raises:
        InputError: if an argument cannot be used.
        CollectionNotFoundError: if none of the collections has an index.
        CheckpointError: if a model cannot be loaded.
        IndexStoreError: if the only collection cannot be used.
    """
    check_text(query, "the query")
    check_choice(mode, "mode", get_args(Mode))
    shown = _Shown(with_matches, with_words, n_lines)
    find = partial(
        _found, collections, query, check_k(k), mode, restriction or Restriction(), min_confidence, shown
    )
    return find() if refresh_s is None else found_in_step(collections, find, refresh_s)


def _found(
    collections: Sequence[Collection],
    query: str,
    k: int,
    mode: Mode,
    restriction: Restriction,
    min_confidence: float | None,
    shown: _Shown,
) -> Found:
    """What a search finds in collections as they are."""
    found = Found(query)
    parts = _parts(collections, restriction, found.notes)
    depth = max(_DEPTH, 2 * k)
    rankings: list[list[Hit]] = []
    queries: dict[str, Asked] = {}
    if mode != "keyword":
        for fingerprint in dict.fromkeys(part.fingerprint for part in parts):
            same = [part for part in parts if part.fingerprint == fingerprint]
            model = same[0].collection.retriever.model
            asked = queries[fingerprint] = Asked(query, model, model.encode_query(query))
            found.notes += _too_long(model.tokenize_queries([query]))
            rankings.append(_semantic(same, asked, depth))
    if mode != "semantic":
        for part in parts:
            index = part.collection.index
            by_words = index.search_keywords(query, depth, filter=part.filter, doc_ids=part.doc_ids)
            rankings.append([dataclasses.replace(hit, doc_id=part.marked(hit)) for hit in by_words])
        if mode == "keyword":
            found.notes += parts[0].collection.index.keyword_problems(query)
    # The first ones may have too little confidence, and one that answers may be below.
    merged = _merged(rankings, max(k, _LEAST_JUDGED) if queries and min_confidence is not None else k)
    hits = [_Judged(number, hit) for number, hit in _located(merged, parts)]
    for part in parts if queries else ():
        _judge([hit for hit in hits if hit.number == part.number], queries[part.fingerprint], part.collection)
    if queries:
        # Hits of different collections may have equal ranks, and so equal scores.
        hits.sort(key=lambda item: (-item.hit.score, -(item.hit.confidence or 0)))
    for place, item in enumerate(hits):
        if len(found.hits) == k:
            break
        confidence = item.hit.confidence
        if min_confidence is not None and confidence is not None and confidence < min_confidence:
            # Those that a search which leaves none out returns.
            found.n_below += place < k
            found.best_below = max(found.best_below or 0.0, confidence)
            continue
        # Only for those that are shown: to find the words of a hit takes most of the time to judge it.
        hit = _with_words(item, shown) if queries else _with_keywords(query, item.hit, shown)
        hit = dataclasses.replace(hit, rank=len(found.hits) + 1)
        if shown.n_lines is not None:
            hit = with_surroundings(hit, collections[item.number], shown.n_lines)
        found.hits.append(hit)
    return found


def _merged(rankings: Sequence[list[Hit]], n: int) -> list[Hit]:
    """The first hits of several rankings together."""
    if len(rankings) == 1:
        return rankings[0][:n]
    return reciprocal_rank_fusion(rankings, [1] * len(rankings), n)


def _too_long(tokens: TokenizedTexts) -> list[str]:
    """That the model does not read a query to its end, if so."""
    n_read = counted(tokens.max_length, "token")
    return [f"The query is too long: the model reads its first {n_read}."] if tokens.n_truncated else []


def _parts(collections: Sequence[Collection], restriction: Restriction, notes: list[str]) -> list[_Part]:
    """The collections that can be searched. The others give notes."""
    parts: list[_Part] = []
    for number, collection in enumerate(collections):
        try:
            index = collection.index
            condition = restriction.filter_for(collection)
            doc_ids = restriction.matching(collection, condition)
        except (CollectionError, IndexStoreError) as error:
            if len(collections) == 1:
                raise
            if not collection.is_without_text:
                notes.append(f"{collection.name}: not searched: {message_of(error)}")
            continue
        if restriction.filter is not None:
            notes += index.filter_problems(restriction.filter)
        parts.append(_Part(collection, number, condition, doc_ids))
    if not parts:
        raise CollectionNotFoundError("", "None of the collections can be searched. Run mlx-colbert sync.")
    if not any(map(_may_find, parts)):
        notes.append(_nothing_allowed(restriction))
    return parts


def _may_find(part: _Part) -> bool:
    """Whether there is a passage that may be found, or no passage at all."""
    if part.doc_ids is not None:
        return bool(part.doc_ids)
    index = part.collection.index
    return part.filter is None or bool(index.ids(filter=part.filter, limit=1)) or not len(index)


def _nothing_allowed(restriction: Restriction) -> str:
    if restriction.pattern is None:
        return "No passage satisfies the conditions of the search."
    return f"No passage matches the regular expression {restriction.pattern!r}."


def _semantic(parts: Sequence[_Part], query: Asked, depth: int) -> list[Hit]:
    """The ranking by MaxSim of collections that have the same model."""
    queries = TokenEmbeddings.pack([query.vectors])
    divisor = float(query.model.score_divisors(queries)[0])
    hits: list[tuple[_Part, Hit]] = []
    for part in parts:
        found = part.collection.index.search(queries, depth, filter=part.filter, doc_ids=part.doc_ids)[0]
        hits += [(part, hit) for hit in found]
    hits.sort(key=lambda item: -item[1].score)
    return [
        dataclasses.replace(hit, doc_id=part.marked(hit), rank=rank, score=hit.score / divisor)
        for rank, (part, hit) in enumerate(hits[:depth], start=1)
    ]


def _located(hits: Sequence[Hit], parts: Sequence[_Part]) -> list[tuple[int, CollectionHit]]:
    """The hits with their own ids again, each with the number of its collection."""
    known = {part.number: part.collection for part in parts}
    found = []
    for hit in hits:
        number, _, doc_id = hit.doc_id.partition("\0")
        found.append((int(number), located(dataclasses.replace(hit, doc_id=doc_id), known[int(number)])))
    return found


@dataclass
class _Judged:
    """A hit, and what its confidence was computed from.

    Attributes:
        number: the number of its collection.
        hit: the hit.
        asked: the query. None: it was not judged.
        vectors: (N, D), the token embeddings of the passage.
        similarities: those of the query to the passage and to typical rows, as `Asked.similarities` returns
            them.
    """

    number: int
    hit: CollectionHit
    asked: Asked | None = None
    vectors: Array | None = None
    similarities: tuple[Array, Array] | None = None


def _judge(hits: Sequence[_Judged], asked: Asked, collection: Collection) -> None:
    """Give hits of one collection their similarity and confidence."""
    if not hits:
        return
    calibration = calibration_of(collection, asked.model)
    rows = collection.index.embeddings([item.hit.doc_id for item in hits])
    for item, vectors in zip(hits, rows, strict=True):
        similarities = asked.similarities(vectors)
        item.asked, item.vectors, item.similarities = asked, vectors, similarities
        item.hit = dataclasses.replace(
            item.hit,
            similarity=float((asked.vectors @ vectors.T).max(axis=1).mean()),
            confidence=calibration.confidence(evidence(*similarities)),
        )


def _with_words(item: _Judged, shown: _Shown) -> CollectionHit:
    hit, asked, similarities = item.hit, item.asked, item.similarities
    if not (shown.matches or shown.words):
        return hit
    assert asked is not None and item.vectors is not None and similarities is not None
    text = encoded_text(hit.text or "", hit.position)
    spans = asked.model.token_spans(text, "document")
    if len(spans) != len(item.vectors):
        # Pooled vectors stand for no piece of the text, and a passage may be one of several windows.
        similarities = asked.similarities(asked.model.encode_document(text))
    first = len(text) - len(hit.text or "")
    rows = text, spans, *similarities, asked.word_numbers
    return dataclasses.replace(
        hit,
        matches=tuple(matches(*rows, first=first)) if shown.matches else (),
        words=tuple(shading(*rows, first=first)) if shown.words else (),
    )


def _with_keywords(query: str, hit: CollectionHit, shown: _Shown) -> CollectionHit:
    found = tuple(keyword_matches(query, hit.text or "")) if shown.matches or shown.words else ()
    return dataclasses.replace(
        hit, matches=found if shown.matches else (), words=found if shown.words else ()
    )
