"""Token embeddings of the texts of a dataset, encoded once and kept on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import OnOverflow, Task
from mlx_colbert.progress import Progress, silent
from mlx_colbert.types import Array, TokenEmbeddings

__all__ = ["encoded_texts"]

# Texts of a file of the cache. A run that is stopped loses at most these.
_TEXTS_AT_ONCE = 256


def encoded_texts(
    model: ColBERT,
    texts: Sequence[str],
    task: Task,
    *,
    on_overflow: OnOverflow = "truncate",
    cache: Path | None = None,
    progress: Progress = silent,
) -> TokenEmbeddings:
    """Token embeddings of texts: float32 of queries, float16 of documents, as an exact index stores them.

    Args:
        model: the model.
        texts: N texts.
        task: "query" or "document".
        on_overflow: as for `ColBERT.encode_document`. For documents only.
        cache: a folder of files of 256 texts each. What is there is not encoded again. The name of a file is
            a hash of the model, the settings and the texts, so several datasets and runs may share a folder.
            None: nothing is kept.
        progress: called with the number of texts that are done.

    Raises:
        OSError: if the folder cannot be written.
    """
    dtype = np.float32 if task == "query" else np.float16
    vectors, lengths = [np.zeros((0, model.dim), dtype)], [np.zeros(0, np.int64)]
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = list(texts[start : start + _TEXTS_AT_ONCE])
        file = None if cache is None else cache / f"{_digest(model, part, task, on_overflow)}.npz"
        kept = None if file is None else _read(file)
        if kept is None:
            kept = _encode(model, part, task, on_overflow)
            if file is not None:
                _write(file, *kept)
        vectors.append(kept[0])
        lengths.append(kept[1])
        progress("encoding", start + len(part), len(texts))
    return TokenEmbeddings(np.concatenate(vectors), np.concatenate(lengths))


def _digest(model: ColBERT, texts: list[str], task: Task, on_overflow: OnOverflow) -> str:
    settings = [model.fingerprint, task, on_overflow if task == "document" else "truncate"]
    return hashlib.sha256(json.dumps([*settings, texts]).encode()).hexdigest()[:32]


def _encode(model: ColBERT, texts: list[str], task: Task, on_overflow: OnOverflow) -> tuple[Array, Array]:
    if task == "query":
        queries = model.encode_query(texts, show_progress=False)
        return queries.vectors, queries.lengths
    documents = model.encode_document(texts, on_overflow=on_overflow, show_progress=False)
    return documents.vectors.astype(np.float16), documents.lengths


def _read(file: Path) -> tuple[Array, Array] | None:
    """The arrays of a file of the cache. None: there is none that can be read."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            vectors, lengths = arrays["vectors"], arrays["lengths"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return (vectors, lengths) if vectors.ndim == 2 and lengths.sum() == len(vectors) else None


def _write(file: Path, vectors: Array, lengths: Array) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # A file is there whole or not at all. Another process may write the same one.
    unfinished = file.with_name(f"{file.stem}.{os.getpid()}.tmp")
    with unfinished.open("wb") as stream:
        np.savez(stream, vectors=vectors, lengths=lengths)
    unfinished.replace(file)
