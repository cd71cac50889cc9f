"""Makes an index of another engine's: its documents are searched as they were coded, nothing is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mlx_colbert.convert.indexes.plaid_index import PlaidIndex, read_plaid_index
from mlx_colbert.errors import IndexStoreError, ModelMismatchError, TargetExistsError
from mlx_colbert.index import Bits, Index
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.progress import Progress, shown
from mlx_colbert.retriever.recorded_model import model_identity
from mlx_colbert.types import Array

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["ImportedIndex", "import_index"]


@dataclass(frozen=True)
class ImportedIndex:
    """What was imported.

    Attributes:
        engine: that wrote it: "colbert" (RAGatouille's too), "pylate", "fast-plaid" or "next-plaid".
        passages: how many.
        texts: how many of them have a text.
        dim: D.
        nbits: bits per component.
        checkpoint: the model that the old index names, if any.
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
    """Makes a new index of one that colbert-ai, RAGatouille, PyLate, fast-plaid or next-plaid wrote.

    Centroids, codes and residuals are taken over as they are, so scores are those of the old engine's last
    stage; residuals pass through memory in blocks. Documents can be added, replaced and deleted afterwards.
    The old index is only read. If the import fails, the new folder is removed.

    Args:
        path: the new index folder, which must not exist or be empty.
        source: the old index, as for `mlx_colbert.convert.indexes.plaid_index.read_plaid_index`.
        model: the model that the old index was made with: a loaded one, or what `ColBERT.load` takes. Only
            its dimension can be checked. Without it the new index records none, and searches have to name it.
        collection: texts, where the old index keeps none: .tsv (id, text, title), .jsonl or .csv.
        backend: runs the model, where it is loaded here.
        progress: is told how far it is, see `mlx_colbert.progress`; a bar without it.

    Raises:
        IndexStoreError: if the old index cannot be used, or (ModelMismatchError) the model has another D.
        InputError: if `collection` does not fit.
        TargetExistsError: if `path` is not an empty folder.
        CheckpointError: if the model cannot be loaded.
    """
    found = read_plaid_index(source, collection=collection)
    loaded = ColBERT.load(model, backend=backend) if isinstance(model, str | Path) else model
    if loaded is not None and loaded.dim != found.dim:
        reason = f"holds vectors of {found.dim} components; {loaded.source!r} makes {loaded.dim}."
        raise ModelMismatchError(found.path, f"{reason} Name the model that made it.")
    identity = None if loaded is None else model_identity(loaded)
    existed = Path(path).exists()
    try:
        index = Index.create(path, found.dim, nbits=cast(Bits, found.nbits), model=identity, backend=backend)
    except TargetExistsError as error:
        raise TargetExistsError(path, advice="Choose a path that does not exist.") from error
    try:
        with shown(progress) as told:
            index.take_over(
                found.centroids,
                found.codebook,
                doc_ids=found.doc_ids,
                lengths=found.doc_lengths,
                blocks=_blocks(found, told),
                texts=found.texts,
                metadata=found.metadata,
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


def _blocks(found: PlaidIndex, progress: Progress) -> Iterator[tuple[Array, Array]]:
    """The coded tokens."""
    done, n_tokens = 0, int(found.doc_lengths.sum())
    try:
        for codes, residuals in found.blocks():
            yield codes, residuals
            done += len(codes)
            progress("writing", done, n_tokens)
    except OSError as error:
        raise IndexStoreError(found.path, f"cannot be read: {error.strerror or error}.") from error
