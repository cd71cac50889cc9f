"""What an index holds, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.index.storage.segment import COMPRESSED


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds.

    Attributes:
        passages: those that are not deleted.
        tokens: their token embeddings.
        deleted: deleted passages whose token embeddings still take room.
        sources: files and records that passages came from.
        segments: number of segments.
        bytes: size of the catalog and of all segments.
        dim: D.
        nbits: bits per component of the compressed passages.
        exact_tokens: token embeddings above which the index is compressed; None: never.
        n_centroids: K; 0 while every passage is stored as float16 and searched exactly.
        compressed_passages: passages in compressed segments, deleted ones too.
        format_version: version of the files, see FORMAT.md.
        model: what the index was created with.
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

    @classmethod
    def of(cls, catalog: Catalog) -> IndexInfo:
        """What a catalog says, within a read."""
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
        )
