"""Reads files for an index: each once, as far as memory allows.

::

    read, hash, decode ─── is it in the store as it is? ── yes ──▶ nothing else
     (needs no model)                                   ── no ───▶ keep ── split (with the model) ──▶ passages
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.documents.files import IdPlaces, read_files
from mlx_colbert.documents.input_file import InputFile
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.shard import ShardInputs
from mlx_colbert.documents.sources import FolderLabels
from mlx_colbert.documents.unread import Unread
from mlx_colbert.errors import IndexNotFoundError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.json_values import JsonObject
from mlx_colbert.progress import Progress
from mlx_colbert.store import Store
from mlx_colbert.types import Source

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["KEPT_BYTES", "ReadFiles", "memory_of", "read_before_opening"]

# Texts, and later passages, that are kept in memory: about 39,000 passages of 100 words in English, with
# what Python needs for them; more than most folders have, and less than a model needs.
KEPT_BYTES = 64 << 20
# What Python needs for a passage without its text: the passage, its id, metadata and position.
_PASSAGE_BYTES = 1000


def memory_of(passage: Passage) -> int:
    """About how many bytes a passage needs in memory."""
    # The metadata of a text is one object for all its passages.
    metadata = passage.metadata.text if isinstance(passage.metadata, JsonObject) else ""
    return _PASSAGE_BYTES + sys.getsizeof(passage.text) + 4 * len(metadata)


class ReadFiles:
    """Files and folders that were read and checked, for one store.

    A file is *known* if the store has its source with the same name, size, time and content hash. The store
    then has all its passages: they are of the same content, of the same model, and by the same rules
    (`mlx_colbert.documents.sources.passage_rules`). Such a file is not decoded.

    Attributes:
        unread: what was left out.
        sources: the sources of the store, by uri.
        uris: the names of all files.
        blank: the files without text that have passages in the store.
        n_known: the number of passages of known files.
        n_read: the number of passages that were read until now, with the known ones.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        store: Store | None,
        progress: Progress,
        *,
        max_file_bytes: int | None = None,
        shard: ShardInputs | None = None,
    ) -> None:
        """Read and check all files. This needs no model.

        Args:
            paths: files and folders.
            store: the store that the passages are for. None: it does not exist yet.
            progress: called with the progress.
            max_file_bytes: as for `mlx_colbert.documents.files.read_passages`.
            shard: read only the files of a shard.

        Raises:
            InputError: if a file cannot be read as passages, or (DuplicateIdError) an id is given twice.
            OSError: if a file cannot be read.
        """
        self.unread: Unread = Unread()
        self.sources: dict[str, Source] = {
            source.uri: source for source in (store.sources() if store else ())
        }
        self.uris: set[str] = set()
        self.blank: set[Source] = set()
        self.n_known: int = 0
        self.n_read: int = 0
        self._places = IdPlaces()
        self._n_bytes = 0
        # The files with passages to write or to compare. A file of rows may have its passages with it.
        self._files: list[tuple[InputFile, list[Passage] | None]] = []
        knows_model = store is not None and "fingerprint" in (store.model or {})
        known = set(self.sources.values()) if knows_model else set()
        folders = {
            source.folder: source.uri.partition("/")[0] for source in self.sources.values() if source.folder
        }
        for file in read_files(
            paths,
            unread=self.unread,
            labels=FolderLabels(folders),
            known=known,
            max_file_bytes=max_file_bytes,
            shard=shard,
        ):
            self.uris.add(file.source.uri)
            if store is not None and file.source in known:
                self._note_known(file, store.passages_of(file.source.uri))
                progress("reading", self.n_read, None)
            elif file.is_blank:
                if file.source.uri in self.sources:
                    self.blank.add(file.source)
            elif file.has_rows:
                self._files.append((file, self._checked_rows(file, progress)))
            else:
                # It has at least one passage. Only the model says how many.
                self._places.add(f"{file.source.uri}#1", f"{file.path}#1")
                self._files.append((file if self._has_room(file.memory_bytes) else file.emptied(), None))

    def passages(self, fits: Callable[[str], bool], progress: Progress) -> Iterator[Passage]:
        """The passages of all files that are not known. Call it once: what was kept is given up.

        Args:
            fits: whether the model reads a text to its end.
            progress: called with the progress.

        Raises:
            DuplicateIdError: if an id is given twice.
        """
        for number, (file, rows) in enumerate(self._files):
            self._files[number] = (file.emptied(), None)
            if file.has_rows:
                # They were checked and counted.
                yield from rows if rows is not None else (passage for _, passage in file.passages())
                continue
            for count, (place, passage) in enumerate(file.passages(fits)):
                if count:
                    self._places.add(passage.doc_id, place)
                self.n_read += 1
                progress("reading", self.n_read, None)
                yield passage

    def again(self, uris: Collection[str], fits: Callable[[str], bool]) -> Iterator[Passage]:
        """The passages of some of these files. The files are read again.

        Args:
            uris: the names of their sources.
            fits: whether the model reads a text to its end.

        Raises:
            InputError: if a file has changed and cannot be read now.
            OSError: if a file cannot be read.
        """
        for file, _ in self._files:
            if file.source.uri in uris:
                yield from (passage for _, passage in file.passages(fits))

    def _checked_rows(self, file: InputFile, progress: Progress) -> list[Passage] | None:
        """The passages of a file of rows. None if they need too much memory."""
        rows: list[Passage] | None = []
        for place, passage in file.passages(unread=self.unread):
            self._places.add(passage.doc_id, place)
            self.n_read += 1
            progress("reading", self.n_read, None)
            if rows is not None and self._has_room(memory_of(passage)):
                rows.append(passage)
            else:
                rows = None
        return rows

    def _note_known(self, file: InputFile, doc_ids: Sequence[str]) -> None:
        place = str(file.path)
        for doc_id in doc_ids:
            self._places.add(doc_id, place)
        self.n_known += len(doc_ids)
        self.n_read += len(doc_ids)

    def _has_room(self, n_bytes: int) -> bool:
        """Whether there is room for this in memory. If there is none once, there is none later."""
        self._n_bytes += n_bytes
        return self._n_bytes <= KEPT_BYTES


def read_before_opening(
    path: str | Path,
    inputs: Sequence[str | Path],
    backend: Backend,
    progress: Progress,
    *,
    max_file_bytes: int | None,
    shard: ShardInputs | None = None,
) -> ReadFiles:
    """The files for the index at a path, which may not exist yet. No model is needed.

    Args:
        path: the index folder.
        inputs: files and folders.
        backend: the kernels of the index.
        progress: called with the progress.
        max_file_bytes: as for `ReadFiles`.
        shard: as for `ReadFiles`.

    Raises:
        IndexStoreError: if there is an index that cannot be read.
        InputError: as for `ReadFiles`.
    """
    if not (Path(path) / CATALOG_NAME).is_file():
        return ReadFiles(inputs, None, progress, max_file_bytes=max_file_bytes, shard=shard)
    try:
        index = Index.open(path, backend=backend)
    except IndexNotFoundError:  # a run that made it was stopped, or has just begun
        return ReadFiles(inputs, None, progress, max_file_bytes=max_file_bytes, shard=shard)
    with index:
        return ReadFiles(inputs, index, progress, max_file_bytes=max_file_bytes, shard=shard)
