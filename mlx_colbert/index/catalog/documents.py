"""Texts, metadata and keywords of the documents: read, filtered and ranked in SQL.

A filter becomes SQL here, a user's text never does: values, names of fields and keywords are parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_colbert.errors import IndexFormatError
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.filters import Filter, compile_filter
from mlx_colbert.index.catalog.keywords import match_expression
from mlx_colbert.types import Array

# A candidate is [segment, ordinal, rank]; equal ranks are ordered by doc_id.
_TOP = """
SELECT chosen.position, chosen.doc_id, contents.text, contents.metadata FROM (
    SELECT candidate.key AS position, documents.document, documents.doc_id,
        json_extract(candidate.value, '$[2]') AS rank
    FROM json_each(?) AS candidate CROSS JOIN documents
    ON documents.segment = json_extract(candidate.value, '$[0]')
        AND documents.ordinal = json_extract(candidate.value, '$[1]')
    ORDER BY rank, documents.doc_id LIMIT ?
) AS chosen JOIN contents USING (document) ORDER BY chosen.rank, chosen.doc_id
"""

_LOCATION_IN_WORDS = "says a document's location in words"


@dataclass(frozen=True)
class Document:
    """A stored document.

    Attributes:
        doc_id: the id that it was added with.
        text: the stored text, if any.
        metadata: the stored JSON object, if any.
        n_tokens: number of its token embeddings.
    """

    doc_id: str
    text: str | None
    metadata: dict[str, Any] | None
    n_tokens: int


@dataclass(frozen=True)
class Selection:
    """Which documents may be found.

    Attributes:
        filter: a condition on their metadata, or None.
        doc_ids: their ids, or None for any.
    """

    filter: Filter | str | None = None
    doc_ids: Sequence[str] | None = None

    def __bool__(self) -> bool:
        return self.filter is not None or self.doc_ids is not None


class Contents:
    """What the catalog of an index knows of its documents besides where they lie.

    Raises:
        IndexStoreError: from every method, if SQLite cannot do it; the subclass says why.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def document(self, doc_id: str) -> Document | None:
        """The stored document of that id, or None."""
        rows = self._catalog.rows(
            "SELECT doc_id, text, metadata, n_tokens FROM documents JOIN contents USING (document) "
            "WHERE doc_id = ?",
            (doc_id,),
        )
        if not rows:
            return None
        found, text, metadata, n_tokens = rows[0]
        return Document(found, self._text(text), self._parse(metadata), n_tokens)

    def stored(self, doc_ids: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
        """Text and metadata (JSON) of those documents that the index holds."""
        locations = self._catalog.locate(doc_ids)
        numbers = {location.document: doc_id for doc_id, location in locations.items()}
        rows = self._catalog.rows(
            "SELECT document, text, metadata FROM contents "
            "WHERE document IN (SELECT value FROM json_each(?))",
            (json.dumps(list(numbers)),),
        )
        return {numbers[document]: (text, metadata) for document, text, metadata in rows}

    def top(
        self, candidates: Sequence[tuple[int, int, int]], k: int
    ) -> list[tuple[int, str, str | None, dict[str, Any] | None]]:
        """The k first candidates as (position in candidates, doc_id, text, metadata).

        Args:
            candidates: (segment, ordinal, rank) of live documents; equal ranks are ordered by doc_id.
            k: how many to return.
        """
        rows = self._catalog.rows(_TOP, (json.dumps(candidates), k))
        return [
            (position, doc_id, self._text(text), self._parse(metadata))
            for position, doc_id, text, metadata in rows
        ]

    def locations(self, selection: Selection) -> Array:
        """Where the selected documents lie: (n, 2) int64, segment and ordinal."""
        condition, parameters = self._condition(selection)
        rows = self._catalog.rows(
            "SELECT documents.segment, documents.ordinal FROM documents JOIN contents USING (document) "
            f"WHERE {condition}",
            parameters,
        )
        try:
            return np.array(rows, np.int64).reshape(-1, 2)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._catalog.damaged(_LOCATION_IN_WORDS) from error

    def doc_ids(self, selection: Selection, *, limit: int | None = None) -> list[str]:
        """The ids of the selected documents, in the order they were added; at most `limit`."""
        condition, parameters = self._condition(selection)
        rows = self._catalog.rows(
            "SELECT documents.doc_id FROM documents JOIN contents USING (document) "
            f"WHERE {condition} ORDER BY document LIMIT ?",
            [*parameters, -1 if limit is None else min(limit, 2**31)],
        )
        return [doc_id for (doc_id,) in rows]

    def by_keywords(self, query: str, selection: Selection, k: int) -> list[tuple[int, int, float]]:
        """The k documents that match a query best by its words: (segment, ordinal, BM25), best first.

        Raises:
            IndexFormatError: if the index has no table of words yet.
        """
        if self._catalog.format < 2:
            raise IndexFormatError(
                self._catalog.root,
                "format 1 holds no keywords. Index.compact (mlx-colbert compact) adds them.",
            )
        expression = match_expression(query)
        if expression is None:
            return []
        condition, parameters = self._condition(selection)
        # FTS5's BM25 is negative, best first; equal ones are ordered by doc_id.
        rows = self._catalog.rows(
            "SELECT documents.segment, documents.ordinal, -bm25(keywords) FROM keywords "
            "JOIN documents ON documents.document = keywords.rowid "
            "JOIN contents ON contents.document = keywords.rowid "
            f"WHERE keywords MATCH ? AND {condition} "
            "ORDER BY bm25(keywords), documents.doc_id LIMIT ?",
            [expression, *parameters, k],
        )
        if any(type(number) is not int for location in rows for number in location[:2]):
            raise self._catalog.damaged(_LOCATION_IN_WORDS)
        return rows

    def set_metadata(self, rows: Iterable[tuple[int, str | None]]) -> None:
        """Replaces the metadata of documents.

        Args:
            rows: (document, metadata as JSON).
        """
        self._catalog.run_many(
            "UPDATE contents SET metadata = ? WHERE document = ?",
            ((text, document) for document, text in rows),
        )

    def _condition(self, selection: Selection) -> tuple[str, list[Any]]:
        """A condition on `documents` joined with `contents`, and its parameters.

        Raises:
            InputError: if the filter cannot be understood.
        """
        parts, parameters = ["1"], []
        if selection.filter is not None:
            condition, values = compile_filter(selection.filter)
            parts.append(condition)
            parameters += values
        if selection.doc_ids is not None:
            # By their numbers: a text ends at a NUL in SQLite's JSON.
            locations = self._catalog.locate(selection.doc_ids).values()
            parts.append("documents.document IN (SELECT value FROM json_each(?))")
            parameters.append(json.dumps([location.document for location in locations]))
        return " AND ".join(parts), parameters

    def _text(self, text: Any) -> str | None:
        if text is not None and type(text) is not str:
            raise self._catalog.damaged("holds a text that is none")
        return text

    def _parse(self, metadata: str | None) -> dict[str, Any] | None:
        try:
            value = None if metadata is None else json.loads(metadata)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._catalog.damaged("holds metadata that is not JSON") from error
        if value is not None and type(value) is not dict:
            raise self._catalog.damaged("holds metadata that is no JSON object")
        return value
