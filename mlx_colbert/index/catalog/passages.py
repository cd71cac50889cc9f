"""The tables of passages in the catalog: their locations, contents and keywords."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.digests import row_digest
from mlx_colbert.index.catalog.keywords import keyword_text, searchable_text

# The columns of the table, for `Passages.located`.
COLUMNS = ", ".join(
    f"passages.{name}" for name in ("passage", "doc_id", "segment", "ordinal", "n_tokens", "digest")
)
# Below the 999 variables that old builds of SQLite allow in one statement.
_IDS_PER_STATEMENT = 500


@dataclass(frozen=True)
class PassageLocation:
    """The location of a live passage.

    Attributes:
        passage: its number in the catalog. A merge does not change it.
        segment: the number of its segment.
        ordinal: its position in the segment.
        n_tokens: number of its token embeddings.
    """

    passage: int
    segment: int
    ordinal: int
    n_tokens: int


class PassageRow(NamedTuple):
    """A passage to insert.

    Attributes:
        doc_id: its id.
        n_tokens: number of its token embeddings.
        text: its text, if any.
        metadata: JSON, if any.
        source: number of its source, if any.
        position: its position in the source, as JSON, if any.
    """

    doc_id: str
    n_tokens: int
    text: str | None = None
    metadata: str | None = None
    source: int | None = None
    position: str | None = None


class Passages:
    """Reads and writes the tables of passages, over the connection of a catalog.

    Raises:
        IndexStoreError: from every method, if SQLite reports an error. The subclass says which.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def locate(self, doc_ids: Sequence[str]) -> dict[str, PassageLocation]:
        """The location of each of these ids that the index has."""
        found: dict[str, PassageLocation] = {}
        for start in range(0, len(doc_ids), _IDS_PER_STATEMENT):
            part = doc_ids[start : start + _IDS_PER_STATEMENT]
            marks = ",".join("?" * len(part))
            rows = self._catalog.rows(
                f"SELECT {COLUMNS} FROM passages WHERE doc_id IN ({marks})",
                part,
            )
            found |= map(self.located, rows)
        return found

    def located(self, row: Sequence[Any]) -> tuple[str, PassageLocation]:
        """The id and the location in a row: the columns of `COLUMNS`.

        Raises:
            IndexDamagedError: if the values do not match their digest, or have the wrong type.
        """
        passage, doc_id, *place = self._catalog.checked(row, "passage", row[1])
        # Older formats have no digests.
        if type(doc_id) is not str or [type(number) for number in (passage, *place)] != [int] * 4:
            raise self._catalog.damaged(f"has an impossible id or location for passage {doc_id!r:.60}")
        return doc_id, PassageLocation(passage, *place)

    def contents(self, passage: int) -> tuple[str | None, str | None, int | None, str | None]:
        """Text, metadata (JSON), number of the source and position (JSON) of a passage."""
        rows = self._catalog.rows(
            "SELECT passage, text, metadata, source, position, digest FROM contents WHERE passage = ?",
            (passage,),
        )
        if not rows:
            raise self._catalog.damaged(f"has no contents for passage {passage}")
        _, *contents = self._catalog.checked(rows[0], "contents of passage", passage)
        return tuple(contents)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give passages new ids.

        Args:
            names: old id → new id. All old ids exist. A new id is an old one of these, or does not exist.
        """
        found = self.locate(list(names))
        # Delete first: a new id may be the old id of another passage.
        for place in found.values():
            self._catalog.run("DELETE FROM passages WHERE passage = ?", (place.passage,))
        values = [
            (place.passage, names[doc_id], place.segment, place.ordinal, place.n_tokens)
            for doc_id, place in found.items()
        ]
        self._insert_locations(values)

    def move_keywords(self, passage: int, text: str | None, position: str | None, new: str | None) -> None:
        """Replace the keywords of a passage whose position in its source, as JSON, is new."""
        if text is not None and keyword_text(text, position) != keyword_text(text, new):
            self._delete_keywords(passage, keyword_text(text, position))
            self._insert_keywords([(passage, keyword_text(text, new))])

    def set_contents(
        self, passage: int, text: str | None, metadata: str | None, source: int | None, position: str | None
    ) -> None:
        """Write the contents of an existing passage. Its keywords do not change (`move_keywords`)."""
        values = (passage, text, metadata, source, position)
        self._catalog.run(
            "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?)", (*values, row_digest(*values))
        )

    def insert(self, segment: int, rows: Sequence[PassageRow], *, first_ordinal: int) -> None:
        """Add passages to a segment.

        Args:
            segment: the number of the segment.
            rows: the passages, in the order of their ordinals.
            first_ordinal: the ordinal of the first one.
        """
        first = 1 + int(self._catalog.rows("SELECT coalesce(max(passage), 0) FROM passages")[0][0])
        locations = [
            (first + i, row.doc_id, segment, first_ordinal + i, row.n_tokens) for i, row in enumerate(rows)
        ]
        contents = [
            (first + i, row.text, row.metadata, row.source, row.position) for i, row in enumerate(rows)
        ]
        self._insert_locations(locations)
        self._catalog.run_many(
            "INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?)",
            ((*values, row_digest(*values)) for values in contents),
        )
        self._insert_keywords(
            (first + i, keyword_text(row.text, row.position))
            for i, row in enumerate(rows)
            if row.text is not None
        )

    def move(self, segment: int, to_segment: int, *, first_ordinal: int) -> int:
        """Move the live passages of a segment, in their order; returns how many.

        Their new ordinals start at `first_ordinal`.
        """
        rows = self._catalog.rows(
            f"SELECT {COLUMNS} FROM passages WHERE segment = ? ORDER BY ordinal",
            (segment,),
        )
        moved = []
        for i, row in enumerate(rows):
            doc_id, old = self.located(row)
            ordinal = first_ordinal + i
            digest = row_digest(old.passage, doc_id, to_segment, ordinal, old.n_tokens)
            moved.append((to_segment, ordinal, digest, old.passage))
        self._catalog.run_many(
            "UPDATE passages SET segment = ?, ordinal = ?, digest = ? WHERE passage = ?", moved
        )
        return len(rows)

    def delete(self, locations: Iterable[PassageLocation]) -> set[int]:
        """Delete passages and leave a tombstone for each; returns the numbers of their sources."""
        sources = set()
        for location in locations:
            passage = location.passage
            text, _, source, position = self.contents(passage)
            if text is not None:
                self._delete_keywords(passage, keyword_text(text, position))
            if source is not None:
                sources.add(source)
            self._catalog.run("DELETE FROM passages WHERE passage = ?", (passage,))
            self._catalog.run("DELETE FROM contents WHERE passage = ?", (passage,))
            self._catalog.run("INSERT INTO tombstones VALUES (?, ?)", (location.segment, location.ordinal))
            self._catalog.run(
                "UPDATE segments SET n_deleted = n_deleted + 1, n_deleted_tokens = n_deleted_tokens + ? "
                "WHERE segment = ?",
                (location.n_tokens, location.segment),
            )
        return sources

    def _insert_locations(self, rows: Iterable[tuple[int, str, int, int, int]]) -> None:
        self._catalog.run_many(
            "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", ((*row, row_digest(*row)) for row in rows)
        )

    def _delete_keywords(self, passage: int, text: str) -> None:
        # This table has no copy of the text, so FTS5 needs the text to remove it.
        self._catalog.run(
            "INSERT INTO keywords (keywords, rowid, text) VALUES ('delete', ?, ?)",
            (passage, searchable_text(text)),
        )

    def _insert_keywords(self, rows: Iterable[tuple[int, str]]) -> None:
        """Add texts to the keywords.

        Args:
            rows: (passage, text).
        """
        self._catalog.run_many(
            "INSERT INTO keywords (rowid, text) VALUES (?, ?)",
            ((passage, searchable_text(text)) for passage, text in rows),
        )
