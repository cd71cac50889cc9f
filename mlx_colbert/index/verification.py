"""A check of every byte of an index for damage."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mlx_colbert.errors import IndexDamagedError, IndexFormatError
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.damage import catalog_problems
from mlx_colbert.index.storage.codec import open_codec
from mlx_colbert.index.storage.segment import COMPRESSED, open_segment


def verify(path: str | Path) -> list[str]:
    """The problems of the index at a path, one sentence each. This reads every byte of it.

    Raises:
        IndexNotFoundError: if there is nothing at the path.
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
