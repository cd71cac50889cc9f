"""Sources in the catalog: the files and records that passages come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.digests import row_digest
from mlx_colbert.index.catalog.passages import COLUMNS, PassageLocation, Passages
from mlx_colbert.types import Source

_COLUMNS = "source, uri, folder, content_hash, modified_ns, n_bytes, digest"


class Sources:
    """Reads and writes the table of sources.

    Raises:
        IndexStoreError: from every method, if SQLite reports an error. The subclass says which.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._passages = Passages(catalog)

    def all(self, *, verify: bool = True) -> list[Source]:
        """All sources, ordered by uri.

        Args:
            verify: compare each with its digest. Without it, this takes half of the time.

        Raises:
            IndexDamagedError: with `verify`, if one does not match its digest.
        """
        rows = self._catalog.rows(f"SELECT {_COLUMNS} FROM sources ORDER BY uri")
        if not verify:
            return [Source(*row[1:-1]) for row in rows]
        return [self._checked(row)[1] for row in rows]

    def by_number(self, numbers: Iterable[int]) -> dict[int, Source]:
        """The sources with these numbers.

        Raises:
            IndexDamagedError: if one is missing.
        """
        wanted = set(numbers)
        if not wanted:
            return {}
        rows = self._catalog.rows(
            f"SELECT {_COLUMNS} FROM sources WHERE source IN (SELECT value FROM json_each(?))",
            (json.dumps(list(wanted)),),
        )
        found = dict(map(self._checked, rows))
        if len(found) != len(wanted):
            raise self._catalog.damaged("has a passage whose source is missing")
        return found

    def replace(self, sources: Mapping[int, Source]) -> None:
        """Replace the sources with these numbers. One may get the uri that another of them had."""
        self._catalog.run_many("DELETE FROM sources WHERE source = ?", ((number,) for number in sources))
        for number, source in sources.items():
            self._write(number, source)

    def put(self, sources: Iterable[Source]) -> dict[str, int]:
        """Write new or existing sources; returns the number of each uri."""
        numbers = {}
        for source in sources:
            number = self.number(source.uri)
            if number is None:
                number = 1 + int(self._catalog.rows("SELECT coalesce(max(source), 0) FROM sources")[0][0])
            self._write(number, source)
            numbers[source.uri] = number
        return numbers

    def forget_content(self, numbers: Iterable[int]) -> None:
        """Remove the content hashes of sources whose passages were changed one by one.

        So a source with a content hash has all passages of that content, as they were.
        """
        for number, source in self.by_number(numbers).items():
            if source.content_hash is not None:
                self._write(number, replace(source, content_hash=None))

    def _write(self, number: int, source: Source) -> None:
        values = (number, *vars(source).values())
        self._catalog.run(
            "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, row_digest(*values))
        )

    def passages(self, uri: str) -> dict[str, PassageLocation]:
        """The locations of the passages of a source by their ids, oldest first."""
        rows = self._catalog.rows(
            f"SELECT {COLUMNS} FROM sources JOIN contents USING (source) JOIN passages USING (passage) "
            "WHERE uri = ? ORDER BY passage",
            (uri,),
        )
        return dict(map(self._passages.located, rows))

    def attach(self, number: int, positions: Mapping[int, str | None]) -> set[int]:
        """Set the source of existing passages; returns the numbers of their previous sources.

        Args:
            number: the number of the source.
            positions: passage → position in the source, as JSON.
        """
        others: set[int] = set()
        for passage, position in positions.items():
            text, metadata, source, place = self._passages.contents(passage)
            if (source, place) != (number, position):
                self._passages.move_keywords(passage, text, place, position)
                self._passages.set_contents(passage, text, metadata, number, position)
                if source is not None:
                    others.add(source)
        return others

    def number(self, uri: str) -> int | None:
        """The number of the source with this uri, or None."""
        rows = self._catalog.rows("SELECT source FROM sources WHERE uri = ?", (uri,))
        return int(rows[0][0]) if rows else None

    def drop_unused(self, numbers: Iterable[int]) -> None:
        """Delete those of the sources that have no passage."""
        self._catalog.run_many(
            "DELETE FROM sources WHERE source = ? "
            "AND NOT EXISTS (SELECT 1 FROM contents WHERE contents.source = sources.source)",
            ((number,) for number in numbers),
        )

    def _checked(self, row: tuple[object, ...]) -> tuple[int, Source]:
        number, *values = self._catalog.checked(row, "source", row[1])
        return number, Source(*values)
