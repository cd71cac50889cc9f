"""What an index is, and whether it is damaged: its size and settings, and a check of every byte."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mlx_colbert.errors import IndexDamagedError, IndexFormatError
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.damage import catalog_problems
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.index.storage.codec_files import open_codec
from mlx_colbert.index.storage.records import COMPRESSED
from mlx_colbert.index.storage.segment_files import open_segment


@dataclass(frozen=True)
class IndexInfo:
    """The size and settings of an index.

    Attributes:
        passages: live passages.
        tokens: token embeddings of live passages.
        deleted: deleted passages whose token embeddings still need space.
        sources: the number of sources: files and records that passages come from.
        segments: the number of segments.
        bytes: the size of the catalog and of all segments.
        dim: D.
        nbits: bits per component of the compressed passages.
        exact_tokens: with more token embeddings than this, the index is compressed; None: never.
        n_centroids: K; 0 if the index is exact.
        compressed_passages: passages in compressed segments, with the deleted ones.
        format_version: the version of the files (FORMAT.md).
        model: the model that the index records.
        indexing: the settings to encode passages that the index records.
    """

    passages: int
    tokens: int
    deleted: int
    sources: int
    segments: int
    bytes: int
    dim: int
    nbits: int
    exact_tokens: int | None
    n_centroids: int
    compressed_passages: int
    format_version: int
    model: Mapping[str, str] | None
    indexing: Mapping[str, str]

    @classmethod
    def of(cls, catalog: Catalog) -> IndexInfo:
        """The size and settings in a catalog. Call it within `Catalog.read`."""
        records, codec, settings = catalog.segments(), catalog.codec(), catalog.settings
        files = [file for record in records for file in record.files]
        files += codec.files if codec else ()
        paths = [catalog.root / f"{CATALOG_NAME}{suffix}" for suffix in ("", "-wal")]
        return cls(
            passages=sum(record.n_documents - record.n_deleted for record in records),
            tokens=sum(record.live_tokens for record in records),
            deleted=sum(record.n_deleted for record in records),
            sources=int(catalog.rows("SELECT count(*) FROM sources")[0][0]),
            segments=len(records),
            bytes=sum(file.n_bytes for file in files)
            + sum(path.stat().st_size for path in paths if path.exists()),
            dim=settings.dim,
            nbits=settings.nbits,
            exact_tokens=settings.exact_tokens,
            n_centroids=codec.n_centroids if codec else 0,
            compressed_passages=sum(record.n_documents for record in records if record.storage == COMPRESSED),
            format_version=catalog.format,
            model=settings.model,
            indexing=settings.indexing,
        )


def verify(path: str | Path) -> list[str]:
    """The problems of the index at a path, one sentence each. This reads every byte of it.

    Raises:
        IndexNotFoundError: if there is nothing at the path, or its creation was stopped.
        IndexFormatError: if a newer version wrote it.
        IndexStoreError: if it is not an index, or cannot be read.
    """
    try:
        with closing(Catalog(Path(path).absolute())) as catalog:
            return _lasting_problems(catalog)
    except IndexDamagedError as error:
        return [str(error)]


def _lasting_problems(catalog: Catalog) -> list[str]:
    seen: tuple[int, int] | None = None
    problems: list[str] = []
    while True:
        with catalog.read():
            version = catalog.version()
            if version == seen:
                return problems
            problems = _problems(catalog)
        if not problems:
            return []
        # A writer may have replaced a file during the check. So check again, until the commit is the same.
        seen = version


def _problems(catalog: Catalog) -> list[str]:
    problems = catalog_problems(catalog)
    if lost := catalog.lost_commits():
        problems.append(str(lost))
    root, dim = catalog.root, catalog.settings.dim
    record, codec = catalog.codec(), None
    if record is not None:
        try:
            codec = open_codec(root, record, dim=dim)
        except IndexDamagedError as error:
            problems.append(str(error))
        else:
            problems += record.folder(root).problems()
    for part in catalog.segments():
        if part.storage == COMPRESSED and codec is None:
            continue
        try:
            open_segment(root, part, dim=dim, codec=codec)
        except (IndexDamagedError, IndexFormatError) as error:
            problems.append(str(error))
        else:
            problems += part.folder(root).problems()
    return problems
