"""The rows of segments and codecs in the catalog, and the names of their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_colbert.index.storage.files import FileRecord, Folder

Storage = Literal["exact", "compressed"]
EXACT: Storage = "exact"
COMPRESSED: Storage = "compressed"


@dataclass(frozen=True)
class SegmentRecord:
    """A segment's row in the catalog.

    Attributes:
        number: the number in the folder name. A committed number is never used again.
        label: the text in the headers of its files; None in a segment of format 1 or 2.
        storage: how the token embeddings are stored.
        n_documents: passages in the files, with the deleted ones.
        n_tokens: rows in the files, with those of deleted passages.
        n_deleted: passages that are marked as deleted.
        n_deleted_tokens: rows of the passages that are marked as deleted.
        files: one record per file.
    """

    number: int
    label: str | None
    storage: Storage
    n_documents: int
    n_tokens: int
    n_deleted: int
    n_deleted_tokens: int
    files: tuple[FileRecord, ...]

    @property
    def live_tokens(self) -> int:
        """The number of rows of live passages."""
        return self.n_tokens - self.n_deleted_tokens

    def folder(self, root: Path) -> Folder:
        """Its files in an index folder."""
        return Folder(segment_folder(root, self.number), self.files, self.label)


@dataclass(frozen=True)
class CodecRecord:
    """The codec's row in the catalog.

    Attributes:
        number: the number in the folder name. A committed number is never used again.
        label: the text in the headers of its files; None in a codec of format 2.
        nbits: bits per component.
        n_centroids: K.
        outlier_distance: as in `Codec`.
        files: one record per file.
    """

    number: int
    label: str | None
    nbits: int
    n_centroids: int
    outlier_distance: float
    files: tuple[FileRecord, ...]

    def folder(self, root: Path) -> Folder:
        """Its files in an index folder."""
        return Folder(codec_folder(root, self.number), self.files, self.label)


def segment_folder(root: Path, number: int) -> Path:
    """The folder of a segment."""
    return root / f"segment-{number:06d}"


def codec_folder(root: Path, number: int) -> Path:
    """The folder of a codec."""
    return root / f"codec-{number:06d}"
