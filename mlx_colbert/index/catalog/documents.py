"""The texts, metadata and keywords of passages: SQL reads, filters and ranks them.

A filter becomes SQL here. The user's own words never do: values, field names and keywords are parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mlx_colbert.errors import IndexFormatError
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.filters import Filter, compile_filter
from mlx_colbert.index.catalog.keywords import match_expression
from mlx_colbert.index.catalog.passages import COLUMNS, Passages
from mlx_colbert.index.catalog.sources import Sources
from mlx_colbert.types import Array, Position

# A candidate is [segment, ordinal, rank]. Candidates of equal rank are ordered by doc_id.
_TOP = """
SELECT chosen.position, chosen.passage, chosen.doc_id, chosen.segment, chosen.ordinal, chosen.n_tokens,
    chosen.digest, contents.passage, contents.text, contents.metadata, contents.source, contents.position,
    contents.digest
FROM (
    SELECT candidate.key AS position, passages.*, json_extract(candidate.value, '$[2]') AS rank
    FROM json_each(?) AS candidate CROSS JOIN passages
    ON passages.segment = json_extract(candidate.value, '$[0]')
        AND passages.ordinal = json_extract(candidate.value, '$[1]')
    ORDER BY rank, passages.doc_id LIMIT ?
) AS chosen JOIN contents USING (passage) ORDER BY chosen.rank, chosen.doc_id
"""
_STORED = f"""
SELECT {COLUMNS}, contents.passage, text, metadata, source, position, contents.digest
FROM passages JOIN contents USING (passage) WHERE doc_id = ?
"""

_LOCATION_NOT_A_NUMBER = "has a passage whose location is not a number"


@dataclass(frozen=True)
class StoredPassage:
    """A passage of an index.

    Attributes:
        doc_id: its id.
        text: the stored text, if any.
        metadata: the stored JSON object, if any.
        n_tokens: number of its token embeddings.
        source: the uri of its source, if any.
        position: its position in the source, if known.
    """

    doc_id: str
    text: str | None
    metadata: dict[str, Any] | None
    n_tokens: int
    source: str | None = None
    position: Position | None = None


@dataclass(frozen=True)
class Selection:
    """The passages that a search may return.

    Attributes:
        filter: a condition on the metadata, or None.
        doc_ids: the only ids to return, or None for all.
    """

    filter: Filter | str | None = None
    doc_ids: Sequence[str] | None = None

    def __bool__(self) -> bool:
        return self.filter is not None or self.doc_ids is not None


def _headings(position: Position | None) -> list[str]:
    return (position or {}).get("headings") or []


class PassageContents:
    """Reads the texts, metadata, sources and positions of passages, and finds passages by them.

    Raises:
        IndexStoreError: from every method, if SQLite reports an error. The subclass says which.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._table = Passages(catalog)
        self._sources = Sources(catalog)

    def passage(self, doc_id: str) -> StoredPassage | None:
        """The passage with this id, or None."""
        rows = self._catalog.rows(_STORED, (doc_id,))
        if not rows:
            return None
        return self._passages([rows[0]])[0]

    def compare(
        self,
        doc_ids: Sequence[str],
        texts: Sequence[str | None],
        metadata: Sequence[str | None],
        uris: Sequence[str | None],
        positions: Sequence[Position | None] | None = None,
    ) -> dict[str, bool]:
        """The ids that the index has, each with True if the stored passage is the same as the given one.

        Args:
            doc_ids: N ids.
            texts: N texts.
            metadata: N JSON objects, as text.
            uris: N uris of sources. None, and a stored passage without a source, match every source.
            positions: N positions, of which the headings must be the same. None: any headings match.
        """
        stored = self._stored(doc_ids)
        places = [None] * len(doc_ids) if positions is None else positions
        same: dict[str, bool] = {}
        for doc_id, text, item, uri, place in zip(doc_ids, texts, metadata, uris, places, strict=True):
            if doc_id in stored:
                *kept, source, position = stored[doc_id]
                is_under = positions is None or _headings(position) == _headings(place)
                same[doc_id] = kept == [text, item] and uri in (None, source or uri) and is_under
        return same

    def _stored(
        self, doc_ids: Sequence[str]
    ) -> dict[str, tuple[str | None, str | None, str | None, Position | None]]:
        """Text, metadata (JSON), source uri and position of each of these passages that the index has."""
        locations = self._table.locate(doc_ids)
        names = {location.passage: doc_id for doc_id, location in locations.items()}
        rows = self._catalog.rows(
            "SELECT passage, text, metadata, source, position, digest FROM contents "
            "WHERE passage IN (SELECT value FROM json_each(?))",
            (json.dumps(list(names)),),
        )
        found = [self._catalog.checked(row, "contents of passage", row[0]) for row in rows]
        sources = self._sources.by_number(source for *_, source, _ in found if source is not None)
        return {
            names[passage]: (
                text,
                metadata,
                None if source is None else sources[source].uri,
                cast("Position | None", self._parse(position)),
            )
            for passage, text, metadata, source, position in found
        }

    def top(self, candidates: Sequence[tuple[int, int, int]], k: int) -> list[tuple[int, StoredPassage]]:
        """The first k candidates, each with its position in `candidates`.

        Args:
            candidates: (segment, ordinal, rank) of live passages. Equal ranks are ordered by doc_id.
            k: how many to return.
        """
        rows = self._catalog.rows(_TOP, (json.dumps(candidates), k))
        for position, _, doc_id, *place in rows:
            if place[:2] != list(candidates[position][:2]):
                raise self._catalog.damaged(f"has the wrong location for passage {doc_id!r}")
        passages = self._passages([row[1:] for row in rows])
        return [(row[0], passage) for row, passage in zip(rows, passages, strict=True)]

    def _passages(self, rows: Sequence[Any]) -> list[StoredPassage]:
        """The passages of rows of `_STORED`, checked against their digests."""
        found = []
        for row in rows:
            doc_id, location = self._table.located(row[:6])
            contents = self._catalog.checked(row[6:], "contents of passage", doc_id)
            found.append((doc_id, location.n_tokens, contents))
        sources = self._sources.by_number(contents[3] for _, _, contents in found if contents[3] is not None)
        return [
            StoredPassage(
                doc_id,
                self._text(text),
                self._parse(metadata),
                n_tokens,
                None if source is None else sources[source].uri,
                cast("Position | None", self._parse(position)),
            )
            for doc_id, n_tokens, (_, text, metadata, source, position) in found
        ]

    def locations(self, selection: Selection) -> Array:
        """The locations of the selected passages: (n, 2) int64, segment and ordinal."""
        condition, parameters = self._condition(selection)
        rows = self._catalog.rows(
            "SELECT passages.segment, passages.ordinal FROM passages JOIN contents USING (passage) "
            f"WHERE {condition}",
            parameters,
        )
        found = np.array(rows).reshape(-1, 2)
        # A text or a fraction in a location gives another type.
        if len(found) and found.dtype != np.int64:
            raise self._catalog.damaged(_LOCATION_NOT_A_NUMBER)
        return found.astype(np.int64, copy=False)

    def doc_ids(self, selection: Selection, *, limit: int | None = None) -> list[str]:
        """The ids of the selected passages, oldest first, at most `limit`."""
        condition, parameters = self._condition(selection)
        rows = self._catalog.rows(
            f"SELECT {COLUMNS} FROM passages JOIN contents USING (passage) "
            f"WHERE {condition} ORDER BY passage LIMIT ?",
            [*parameters, -1 if limit is None else min(limit, 2**31)],
        )
        return [doc_id for doc_id, _ in map(self._table.located, rows)]

    def by_keywords(self, query: str, selection: Selection, k: int) -> list[tuple[int, int, float]]:
        """The k passages that best match the words of a query: (segment, ordinal, BM25), best first.

        Raises:
            IndexFormatError: if the index has format 1, which has no keywords.
        """
        if self._catalog.format < 2:
            raise IndexFormatError(
                self._catalog.root,
                "format 1 has no keywords. Index.compact (mlx-colbert compact) adds them.",
            )
        expression = match_expression(query)
        if expression is None:
            return []
        condition, parameters = self._condition(selection)
        # FTS5's BM25 is negative: the lowest is the best. Equal scores are ordered by doc_id.
        rows = self._catalog.rows(
            "SELECT passages.segment, passages.ordinal, -bm25(keywords) FROM keywords "
            "JOIN passages ON passages.passage = keywords.rowid "
            "JOIN contents ON contents.passage = keywords.rowid "
            f"WHERE keywords MATCH ? AND {condition} "
            "ORDER BY bm25(keywords), passages.doc_id LIMIT ?",
            [expression, *parameters, k],
        )
        if any(type(number) is not int for location in rows for number in location[:2]):
            raise self._catalog.damaged(_LOCATION_NOT_A_NUMBER)
        # FTS5 computes the score from its own counts, which may be damaged.
        if not all(type(score) is float for *_, score in rows):
            raise self._catalog.damaged("has damaged keywords: the score of a passage is not a number")
        return rows

    def set_metadata(self, rows: Iterable[tuple[int, str | None]]) -> None:
        """Replace the metadata of passages.

        Args:
            rows: (passage, metadata as JSON).
        """
        changed: set[int] = set()
        for passage, metadata in rows:
            text, _, source, position = self._table.contents(passage)
            self._table.set_contents(passage, text, metadata, source, position)
            if source is not None:
                changed.add(source)
        self._sources.forget_content(changed)

    def _condition(self, selection: Selection) -> tuple[str, list[Any]]:
        """A condition on `passages` joined with `contents`, and its parameters.

        Raises:
            InputError: if the filter is not valid.
        """
        parts, parameters = ["1"], []
        if selection.filter is not None:
            condition, values = compile_filter(selection.filter)
            parts.append(condition)
            parameters += values
        if selection.doc_ids is not None:
            # Pass numbers, not ids: SQLite's JSON functions end a text at a NUL.
            locations = self._table.locate(selection.doc_ids).values()
            parts.append("passages.passage IN (SELECT value FROM json_each(?))")
            parameters.append(json.dumps([location.passage for location in locations]))
        return " AND ".join(parts), parameters

    def _text(self, text: Any) -> str | None:
        if text is not None and type(text) is not str:
            raise self._catalog.damaged("stores a text that is not a string")
        return text

    def _parse(self, metadata: str | None) -> dict[str, Any] | None:
        try:
            value = None if metadata is None else json.loads(metadata)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._catalog.damaged("stores metadata that is not JSON") from error
        if value is not None and type(value) is not dict:
            raise self._catalog.damaged("stores metadata that is not a JSON object")
        return value
