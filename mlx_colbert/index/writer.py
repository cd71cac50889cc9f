"""Changes to an index: one transaction each, one new segment at most."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlx_colbert.errors import (
    ColBERTError,
    DuplicateIdError,
    IndexLockedError,
    IndexStoreError,
    UnknownIdError,
)
from mlx_colbert.index import schema
from mlx_colbert.index.batch import Batch
from mlx_colbert.index.catalog import Catalog
from mlx_colbert.index.segment import (
    CODEC,
    Segment,
    SegmentRecord,
    check_contents,
    collect_garbage,
    open_segment,
    segment_folder,
    write_segment,
)
from mlx_colbert.types import Array

# An add that would leave this many segments in its size class writes them as one: a row is written again
# about once per class.
_FAN_OUT = 8
# Live tokens of the smallest class, 1 MiB at D = 128: to write that costs about as much as a commit's syncs.
_SMALLEST_TOKENS = 4096
# MLX arrays break at 2^31 elements, so at D = 128 no merge goes beyond this many tokens.
_LARGEST_TOKENS = 1 << 24


class Writer:
    """Adds and deletes documents; threads and processes take turns.

    Raises:
        IndexLockedError: from every method, if another writer does not finish in time.
        IndexStoreError: from every method, if the folder cannot be written; nothing is changed then.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._catalog = Catalog(root)
        self._turn = threading.Lock()

    def close(self) -> None:
        """Closes the catalog, after a change that is under way."""
        with self._turn:
            self._catalog.close()

    def add(self, batch: Batch, *, replace: bool) -> None:
        """Adds documents; with `replace`, those that exist are deleted in the same transaction.

        Raises:
            DuplicateIdError: without `replace`, if a doc_id exists.
        """
        with self._change() as dropped:
            existing = self._catalog.locate(batch.doc_ids)
            if existing and not replace:
                raise DuplicateIdError(list(existing), reason="exists already. Use upsert to replace it.")
            self._catalog.delete_documents(existing.values())
            dropped += self._drop_dead()
            dropped += self._write(batch)

    def delete(self, doc_ids: Sequence[str]) -> None:
        """Deletes documents.

        Raises:
            UnknownIdError: if the index does not hold one of them; nothing is deleted then.
        """
        with self._change() as dropped:
            found = self._catalog.locate(doc_ids)
            unknown = [doc_id for doc_id in doc_ids if doc_id not in found]
            if unknown:
                raise UnknownIdError(unknown, where=self._root)
            self._catalog.delete_documents(found.values())
            dropped += self._drop_dead()

    @contextmanager
    def _change(self) -> Iterator[list[int]]:
        # The block appends the segments that its commit drops.
        dropped: list[int] = []
        if not self._turn.acquire(timeout=schema.LOCK_TIMEOUT_S):
            raise IndexLockedError(
                self._root,
                f"another thread did not finish writing within {schema.LOCK_TIMEOUT_S:g} s. Try again later.",
            )
        try:
            with self._catalog.write():
                collect_garbage(self._root, {record.number for record in self._catalog.segments()})
                yield dropped
            # Whatever is left of them if this fails is collected by the next writer.
            for number in dropped:
                shutil.rmtree(segment_folder(self._root, number), ignore_errors=True)
        except ColBERTError:
            raise
        except OSError as error:
            raise IndexStoreError(
                self._root,
                f"cannot be written: {error.strerror or error}. Nothing was changed. Check disk and rights.",
            ) from error
        finally:
            self._turn.release()

    def _drop_dead(self) -> list[int]:
        dead = [
            record.number for record in self._catalog.segments() if record.n_deleted == record.n_documents
        ]
        for number in dead:
            self._catalog.drop_segment(number)
        return dead

    def _write(self, batch: Batch) -> list[int]:
        """Writes a batch and the segments due for merging to one new segment; returns those merged."""
        merged = due_for_merge(self._catalog.segments(), int(batch.lengths.sum()))
        sources = [self._source(record) for record in merged]
        lengths = np.concatenate(
            [segment.embeddings.lengths[live] for segment, live in sources] + [batch.lengths]
        )
        number = self._catalog.new_segment(CODEC, len(lengths), int(lengths.sum()))
        n_moved = 0
        for record in merged:
            n_moved += self._catalog.move_documents(record.number, number, n_moved)
            self._catalog.drop_segment(record.number)
        self._catalog.insert_documents(
            number,
            n_moved,
            list(zip(batch.doc_ids, batch.lengths.tolist(), batch.texts, batch.metadata, strict=True)),
        )
        files = write_segment(self._root, number, lengths, _rows(sources, batch), dim=self._catalog.dim)
        self._catalog.insert_files(number, files)
        return [record.number for record in merged]

    def _source(self, record: SegmentRecord) -> tuple[Segment, Array]:
        # Merging damaged rows would give them a new, valid checksum.
        check_contents(self._root, record)
        live = np.ones(record.n_documents, np.bool_)
        live[self._catalog.deleted_ordinals(record)] = False
        return open_segment(self._root, record, dim=self._catalog.dim), live


def due_for_merge(records: Sequence[SegmentRecord], n_tokens: int) -> list[SegmentRecord]:
    """The segments to write again together with `n_tokens` new rows.

    With seven segments of its own size class they become one, which may join those of its class in turn.
    """
    merged: list[SegmentRecord] = []
    while True:
        size = _size_class(n_tokens)
        peers = [r for r in records if r not in merged and _size_class(r.live_tokens) == size]
        n_tokens += sum(record.live_tokens for record in peers)
        if len(peers) < _FAN_OUT - 1 or n_tokens > _LARGEST_TOKENS:
            return sorted(merged, key=lambda record: record.number)
        merged += peers


def _size_class(n_tokens: int) -> int:
    size, bound = 0, _SMALLEST_TOKENS
    while n_tokens > bound:
        size, bound = size + 1, bound * _FAN_OUT
    return size


def _rows(sources: Sequence[tuple[Segment, Array]], batch: Batch) -> Iterator[Array]:
    for segment, live in sources:
        yield from segment.live_rows(live)
    yield from batch.blocks()
