"""Passages that come from no file. They are in the index alone, so a new index gets them from the old one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlx_colbert.errors import IndexDamagedError, IndexNotFoundError
from mlx_colbert.index import Index
from mlx_colbert.progress import silent
from mlx_colbert.retriever.retriever import Retriever

__all__ = ["WITHOUT_FILE", "carry_over"]

# The filter that they satisfy.
WITHOUT_FILE = "not exists(source.uri)"
_AT_ONCE = 512


def carry_over(old_path: Path, new_path: Path, new: Callable[[], Retriever]) -> dict[str, str]:
    """Add the passages that come from no file to a new index.

    Args:
        old_path: the old index. There may be none.
        new_path: the new index. There may be none.
        new: makes or opens the new index, with its model.

    Returns:
        The old index and the reason, if it is damaged.
    """
    try:
        with Index.open(old_path, backend="numpy") as old:
            ids = old.ids(filter=WITHOUT_FILE)
            if not ids and not new_path.exists():
                return {}
            retriever = new()
            # What an interrupted call has added, and was deleted from the old one since.
            retriever.delete(set(retriever.index.ids(filter=WITHOUT_FILE)).difference(ids))
            for start in range(0, len(ids), _AT_ONCE):
                part = list(old.passages(doc_ids=ids[start : start + _AT_ONCE]))
                retriever.upsert(
                    [passage.text or "" for passage in part],
                    [passage.doc_id for passage in part],
                    [passage.metadata for passage in part],
                    progress=silent,
                )
    except IndexNotFoundError:
        pass
    except IndexDamagedError as error:
        return {str(old_path): f"Documents that come from no file cannot be read: {error}"}
    return {}
