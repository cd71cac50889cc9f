"""The sources of a store in another engine: a record for each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.stores.rows import Engine, key_of
from mlx_colbert.types import Source

__all__ = ["SourceRecords"]

# The names of the records of sources begin with this.
_SOURCE = "source:"


class SourceRecords:
    """Reads and writes the records of sources.

    Args:
        path: the location of the store, for messages.
        engine: where the records are.
    """

    def __init__(self, path: str | Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine

    def all(self) -> list[Source]:
        """All sources, ordered by uri."""
        texts = [text for name, text in self._engine.records().items() if name.startswith(_SOURCE)]
        return sorted(map(self._read, texts), key=lambda source: source.uri)

    def some(self, uris: Iterable[str]) -> dict[str, Source]:
        """The sources with these uris that the store has, by uri."""
        found = map(self._read, self._engine.records(list(map(_name, uris))).values())
        return {source.uri: source for source in found}

    def put(self, sources: Iterable[Source], gone: Iterable[str] = ()) -> None:
        """Write sources, and delete those with the uris `gone`."""
        records: dict[str, str | None] = {_name(source.uri): json.dumps(vars(source)) for source in sources}
        self._engine.put_records(records | {_name(uri): None for uri in gone})

    def _read(self, text: str) -> Source:
        try:
            return Source(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise IndexDamagedError(self._path, "has a source that cannot be read.") from error


def _name(uri: str) -> str:
    return f"{_SOURCE}{key_of(uri)}"
