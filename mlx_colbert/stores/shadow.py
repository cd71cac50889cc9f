"""A copy of ids, texts, metadata and sources on this machine, for keywords and some filters.

It is an `Index` in a temporary folder, with one empty vector for each passage. So filters and keywords find
exactly what they find in an index. The first filter or keyword search makes it. Later ones first copy what
changed, also if another process changed it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np

from mlx_colbert.index import Index
from mlx_colbert.stores.rows import Engine, Mark, Row, key_of
from mlx_colbert.types import Source

__all__ = ["Shadow"]

_DIM = 8
_ROWS_AT_ONCE = 1024


class Shadow:
    """The copy of a store. Any number of threads may use it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._index: Index | None = None
        self._version: Hashable = None
        # Key -> id and stamp of each passage in the copy.
        self._known: dict[str, tuple[str, int]] = {}

    def index(self, sources: Mapping[str, Source]) -> Index:
        """The copy, in step with the store.

        Args:
            sources: uri → source.
        """
        with self._lock:
            if self._index is None:
                self._folder = tempfile.TemporaryDirectory(prefix="mlx-colbert-store-")
                path = Path(self._folder.name) / "index"
                self._index = Index.create(path, _DIM, nbits=1, exact_tokens=None, backend="numpy")
            version = self._engine.version()
            if version != self._version:
                self._update(self._index, sources)
                self._version = version
            return self._index

    def close(self) -> None:
        """Remove the copy."""
        with self._lock:
            if self._index is not None:
                self._index.close()
            if self._folder is not None:
                self._folder.cleanup()
            self._index = self._folder = None

    def _update(self, index: Index, sources: Mapping[str, Source]) -> None:
        marks = {mark.key: mark for mark in self._engine.marks()}
        gone = [key for key in self._known if key not in marks]
        if gone:
            index.delete([self._known.pop(key)[0] for key in gone])
        changed = [mark for key, mark in marks.items() if self._known.get(key, (None, None))[1] != mark.stamp]
        changed.sort(key=lambda mark: mark.order)
        with index.bulk():
            for part in _parts(changed, _ROWS_AT_ONCE):
                found = {row.doc_id: row for row in self._engine.rows([mark.key for mark in part])}
                self._copy(index, [found[mark.doc_id] for mark in part if mark.doc_id in found], sources)
        present = {source.uri: source for source in index.sources()}
        differing = {
            uri: sources[uri] for uri, source in present.items() if sources.get(uri, source) != source
        }
        if differing:
            index.rename_sources(differing)

    def _copy(self, index: Index, rows: Sequence[Row], sources: Mapping[str, Source]) -> None:
        if not rows:
            return
        index.upsert(
            [row.doc_id for row in rows],
            np.zeros((len(rows), 1, _DIM), np.float16),
            [row.text for row in rows],
            [None if row.metadata is None else json.loads(row.metadata) for row in rows],
            sources=[
                None if row.source is None else sources.get(row.source, Source(row.source)) for row in rows
            ],
            positions=[row.place() for row in rows],
        )
        self._known |= {key_of(row.doc_id): (row.doc_id, row.stamp) for row in rows}


def _parts(marks: Iterable[Mark], size: int) -> Iterable[list[Mark]]:
    rest = iter(marks)
    return iter(lambda: list(islice(rest, size)), [])
