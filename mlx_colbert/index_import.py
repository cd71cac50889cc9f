"""The import of an index of another engine, or of an export to Parquet. Nothing is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mlx_colbert.convert.indexes.plaid_index import PlaidIndex, read_plaid_index
from mlx_colbert.errors import IndexStoreError, InputError, ModelMismatchError, TargetExistsError
from mlx_colbert.index import Bits, Index
from mlx_colbert.index_export import import_export, is_export
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.progress import Progress, shown
from mlx_colbert.retriever.recorded_model import model_identity
from mlx_colbert.types import Array, Source

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["ImportedIndex", "import_index"]


@dataclass(frozen=True)
class ImportedIndex:
    """The result of an import.

    Attributes:
        engine: the engine of the old index: "colbert" (also RAGatouille), "pylate", "fast-plaid" or
            "next-plaid"; "parquet" for an export.
        passages: the number of passages.
        texts: the number of passages with a text.
        dim: D.
        nbits: bits per component.
        checkpoint: the model that the old index records, if any.
        model: the model that the new index records, if any.
    """

    engine: str
    passages: int
    texts: int
    dim: int
    nbits: int
    checkpoint: str | None
    model: str | None


def import_index(
    path: str | Path,
    source: str | Path,
    model: ColBERT | str | Path | None = None,
    *,
    collection: str | Path | None = None,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> ImportedIndex:
    """Create a new index from one that colbert-ai, RAGatouille, PyLate, fast-plaid or next-plaid wrote.

    Or from an export to Parquet (`mlx_colbert.index_export`): it has the same passages, sources, settings and
    model as the index that was exported. Token embeddings of an exact index are the same bits.

    This copies centroids, codes and residuals without a change, so scores are those of the old engine's last
    stage. Residuals are read in blocks, to save memory. Later you can add, replace and delete passages. The
    old index is only read. A document of RAGatouille is the source of its passages. If the import fails, the
    new folder is removed.

    Args:
        path: the new index folder. It must not exist, or be empty.
        source: the old index, as for `mlx_colbert.convert.indexes.plaid_index.read_plaid_index`, or the
            folder of an export.
        model: the model of the old index: a loaded one, or an argument for `ColBERT.load`. Only its dimension
            can be checked. Without it the new index records no model, and each search must name it.
        collection: the texts, if the old index has none: .tsv (id, text, title), .jsonl or .csv.
        backend: the kernels for the model, if it is loaded here.
        progress: called with the progress (`mlx_colbert.progress`). Without it, there is a progress bar.

    Raises:
        IndexStoreError: if the old index cannot be used, or (ModelMismatchError) the model has another D.
        InputError: if `collection` does not match the old index.
        TargetExistsError: if `path` is not an empty folder.
        CheckpointError: if the model cannot be loaded.
    """
    if is_export(source):
        if model is not None or collection is not None:
            raise InputError(f"{source}: an export has its texts and names its model. Leave the others out.")
        return _import_export(path, source, progress)
    found = read_plaid_index(source, collection=collection)
    loaded = ColBERT.load(model, backend=backend) if isinstance(model, str | Path) else model
    if loaded is not None and loaded.dim != found.dim:
        reason = f"has vectors of {found.dim} components, but {loaded.source!r} makes {loaded.dim}."
        raise ModelMismatchError(found.path, f"{reason} Give the model that made it.")
    identity = None if loaded is None else model_identity(loaded)
    existed = Path(path).exists()
    try:
        index = Index.create(path, found.dim, nbits=cast(Bits, found.nbits), model=identity, backend=backend)
    except TargetExistsError as error:
        raise TargetExistsError(path, advice="Choose a path that does not exist.") from error
    try:
        with shown(progress) as told:
            index.import_compressed(
                found.centroids,
                found.codebook,
                doc_ids=found.doc_ids,
                lengths=found.doc_lengths,
                blocks=_blocks(found, told),
                texts=found.texts,
                metadata=found.metadata,
                sources=[Source(uri) if uri.strip() else None for uri in found.sources],
            )
    except BaseException:
        index.discard_if_empty(keep_folder=existed)
        raise
    index.close()
    return ImportedIndex(
        engine=found.engine,
        passages=len(found.doc_ids),
        texts=sum(text is not None for text in found.texts),
        dim=found.dim,
        nbits=found.nbits,
        checkpoint=found.model,
        model=None if loaded is None else loaded.source,
    )


def _import_export(path: str | Path, source: str | Path, progress: Progress | None) -> ImportedIndex:
    try:
        with shown(progress) as told:
            info = import_export(path, source, told)
    except TargetExistsError as error:
        raise TargetExistsError(path, advice="Choose a path that does not exist.") from error
    model = (info.model or {}).get("source")
    with Index.open(path, backend="numpy") as index:
        texts = sum(passage.text is not None for passage in index.passages())
    return ImportedIndex("parquet", info.passages, texts, info.dim, info.nbits, model, model)


def _blocks(found: PlaidIndex, progress: Progress) -> Iterator[tuple[Array, Array]]:
    """The compressed tokens, in blocks."""
    done, n_tokens = 0, int(found.doc_lengths.sum())
    try:
        for codes, residuals in found.blocks():
            yield codes, residuals
            done += len(codes)
            progress("writing", done, n_tokens)
    except OSError as error:
        raise IndexStoreError(found.path, f"cannot be read: {error.strerror or error}.") from error
