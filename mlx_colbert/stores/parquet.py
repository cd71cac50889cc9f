"""Parquet files: a row for each passage. They can be read back (`import_index`), and by any other program.

Columns: `doc_id`, `text`, `metadata` and `position` (JSON), `source` (the uri), and `vectors`, a list of
lists of D numbers of 16 bits. The sources are in a file of their own, sources.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlx_colbert.errors import IndexDamagedError, MissingExtraError, said
from mlx_colbert.types import Array

from mlx_colbert.stores.exported import Block  # isort: skip

__all__ = ["PART", "PASSAGES", "fixed_files", "read_part", "write"]

PASSAGES = 1024
PART = "part-{:06}.parquet"
_TEXTS = "doc_id text metadata source position".split()
_ROWS_AT_ONCE = 256


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet", "parquet") from error
    return pyarrow


def fixed_files(dim: int) -> dict[str, str]:
    """No files. This raises an error if pyarrow is not installed.

    Raises:
        MissingExtraError: if pyarrow is not installed.
    """
    _pyarrow()
    return {}


def write(block: Block, file: BinaryIO) -> None:
    """Write a part."""
    arrow = _pyarrow()
    passages, embeddings = block.passages, block.embeddings
    vectors = arrow.ListArray.from_arrays(
        arrow.array(embeddings.offsets.astype(np.int32)),
        arrow.FixedSizeListArray.from_arrays(
            arrow.array(embeddings.vectors.astype(np.float16).ravel()), embeddings.dim
        ),
    )
    columns = {
        "doc_id": [passage.doc_id for passage in passages],
        "text": [passage.text for passage in passages],
        "metadata": [_json(passage.metadata) for passage in passages],
        "source": [passage.source for passage in passages],
        "position": [_json(passage.position) for passage in passages],
    }
    arrays = [arrow.array(columns[name], arrow.string()) for name in _TEXTS]
    table = arrow.Table.from_arrays([*arrays, vectors], names=[*_TEXTS, "vectors"])
    arrow.parquet.write_table(table, file, compression="zstd")


def read_part(path: Path, dim: int) -> Iterator[tuple[dict[str, list[Any]], list[Array]]]:
    """The passages of a part, some at a time: their columns, and an array (n_tokens, D) float16 for each.

    Raises:
        MissingExtraError: if pyarrow is not installed.
        IndexDamagedError: if the file is not such a part.
    """
    arrow = _pyarrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[*_TEXTS, "vectors"]):
                columns = {name: batch[name].to_pylist() for name in _TEXTS}
                for name in ("metadata", "position"):
                    columns[name] = [None if text is None else json.loads(text) for text in columns[name]]
                yield columns, _arrays(batch["vectors"], dim)
    except (arrow.ArrowException, OSError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise IndexDamagedError(path, f"is not a part of an export: {said(error)}.") from error


def _arrays(column: Any, dim: int) -> list[Array]:
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    values = column.flatten().flatten().to_numpy(zero_copy_only=False)
    if values.dtype != np.float16 or len(values) != lengths.sum() * dim:
        raise ValueError(f"its vectors do not have {dim} components of 16 bits")
    return np.split(values.reshape(-1, dim), np.cumsum(lengths)[:-1])


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
