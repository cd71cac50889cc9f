"""The export of an index: into another engine, or into files that one reads. Nothing is encoded."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from mlx_colbert.checks import check_choice
from mlx_colbert.counts import counted
from mlx_colbert.errors import IndexDamagedError, InputError, TargetExistsError, UnknownIdError
from mlx_colbert.index import Bits, Index, IndexInfo
from mlx_colbert.index.catalog.commits import read_note
from mlx_colbert.progress import Progress, shown
from mlx_colbert.stores.engine_store import EngineStore
from mlx_colbert.stores.export_folder import ExportFolder, read_state
from mlx_colbert.stores.exported import Block, Format
from mlx_colbert.stores.location import shown_location
from mlx_colbert.types import Source

__all__ = ["ExportedIndex", "Target", "export_index", "import_export", "is_export"]

Target = Literal["lancedb", "qdrant", "vespa", "elasticsearch", "parquet"]

_VERSION = 1
_SOURCES = "sources.json"
# Passages that another engine gets in one change.
_PASSAGES_AT_ONCE = 512


@dataclass(frozen=True)
class ExportedIndex:
    """The result of an export.

    Attributes:
        output: where it is.
        to: the engine or the format.
        passages: the number of passages.
        continued: the number of passages that an interrupted export had written before.
        tokens: the number of token embeddings.
        dim: D.
        exact: whether the token embeddings are those that were added. False: some were decoded.
    """

    output: str
    to: str
    passages: int
    continued: int
    tokens: int
    dim: int
    exact: bool


def export_index(
    path: str | Path, output: str | Path, to: Target, *, progress: Progress | None = None
) -> ExportedIndex:
    """Write the passages of an index, with their token embeddings, for another engine.

    Only a few passages are in memory. If it is interrupted, the same call continues it. Token embeddings of
    compressed passages are decoded.

    Args:
        path: the index folder.
        output: a path that does not exist, or the same export that was interrupted. For "lancedb" also
            "s3://bucket/prefix", for "qdrant" also "http://host:6333/collection".
        to: "lancedb" and "qdrant" make stores that `mlx_colbert.store.open_store` opens. "vespa" makes an
            application and its feed, "elasticsearch" a mapping and parts for the bulk API, "parquet" files
            that `import_index` reads.
        progress: called with the stage "exporting", the number of passages, and their total. Without it,
            there is a progress bar.

    Raises:
        InputError: if `to` is another word, or cannot be at `output`.
        TargetExistsError: if there is anything else at `output`.
        MissingExtraError: if the extra of the engine is not installed.
        IndexStoreError: if the index cannot be read, or the output cannot be written.
    """
    check_choice(to, "to", get_args(Target))
    if "://" in str(output) and to not in ("lancedb", "qdrant"):
        raise InputError(
            f"{shown_location(output)}: an export to {to} is a folder on this machine. Give its path."
        )
    with Index.open(path, backend="numpy") as index, shown(progress) as told:
        exported = _Exported(index)
        if to in ("lancedb", "qdrant"):
            continued = _to_engine(exported, output, to, told)
        else:
            continued = _to_folder(exported, Path(output), to, told)
        return ExportedIndex(
            output=str(shown_location(output)),
            to=to,
            passages=len(exported.ids),
            continued=continued,
            tokens=exported.info.tokens,
            dim=index.dim,
            exact=exported.is_exact,
        )


class _Exported:
    """An index to export.

    Attributes:
        index: the index.
        info: its settings.
        ids: the ids of its passages, oldest first.
        sources: its sources by uri.
        is_exact: whether no passage is compressed.
        state: a text that is another one after a change of the index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.info: IndexInfo = index.info()
        self.ids = index.ids()
        self.sources = {source.uri: source for source in index.sources()}
        self.is_exact = not self.info.compressed_passages
        digest = hashlib.sha256(json.dumps(self.ids).encode())
        digest.update(f"{read_note(index.path)} {self.info.tokens} {self.info.n_centroids}".encode())
        self.state = digest.hexdigest()

    def block(self, ids: Sequence[str]) -> Block:
        """Some of its passages.

        Raises:
            UnknownIdError: if one was deleted meanwhile.
        """
        passages = list(self.index.passages(doc_ids=ids))
        if len(passages) != len(ids):
            gone = sorted(set(ids) - {passage.doc_id for passage in passages})
            raise UnknownIdError(gone, where=self.index.path)
        return Block(passages, self.index.embeddings(ids))

    def parts(self, size: int) -> Iterator[tuple[int, list[str]]]:
        """The ids in parts, each with its number."""
        return ((start // size, self.ids[start : start + size]) for start in range(0, len(self.ids), size))


def _to_folder(exported: _Exported, path: Path, to: str, told: Progress) -> int:
    written = cast(Format, importlib.import_module(f"mlx_colbert.stores.{to}"))
    index, info = exported.index, exported.info
    fixed = written.fixed_files(index.dim)
    if to == "parquet":
        fixed |= {_SOURCES: json.dumps([vars(source) for source in exported.sources.values()])}
    state = {
        "version": _VERSION,
        "to": to,
        "index": exported.state,
        "passages": len(exported.ids),
        "part_passages": written.PASSAGES,
        "dim": index.dim,
        "nbits": info.nbits,
        "exact_tokens": info.exact_tokens,
        "exact": exported.is_exact,
        "model": None if index.model is None else dict(index.model),
        "indexing": dict(index.indexing),
    }
    folder = ExportFolder(path, state)
    for name, text in fixed.items():
        folder.write(name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    done = continued = 0
    for number, ids in exported.parts(written.PASSAGES):
        name = written.PART.format(number)
        if folder.has(name):
            continued += len(ids)
        else:
            block = exported.block(ids)
            folder.write(name, lambda file, block=block: written.write(block, file))  # type: ignore[misc]
        done += len(ids)
        told("exporting", done, len(exported.ids))
    folder.finish()
    return continued


def _to_engine(exported: _Exported, output: str | Path, to: str, told: Progress) -> int:
    index = exported.index
    settings: dict[str, Any] = {
        "model": index.model,
        "indexing": index.indexing,
        "exact_tokens": exported.info.exact_tokens,
        "unfinished": exported.state,
    }
    store: EngineStore
    if to == "lancedb":
        from mlx_colbert.stores.lancedb import LanceStore

        _check_new_folder(output, {"passages.lance", "records.lance"})
        store = LanceStore.create(output, index.dim, **settings)
    else:
        from mlx_colbert.stores.qdrant import QdrantStore

        _check_new_folder(output, {"collection", "meta.json", ".lock"})
        store = QdrantStore.create(output, index.dim, **settings)
    done = continued = 0
    with store:
        with store.bulk():
            for _, ids in exported.parts(_PASSAGES_AT_ONCE):
                known = store.existing(ids)
                continued += len(known)
                if missing := [doc_id for doc_id in ids if doc_id not in known]:
                    _add(store, exported.block(missing), exported.sources)
                done += len(ids)
                told("exporting", done, len(exported.ids))
        store.finish()
    return continued


def _add(store: EngineStore, block: Block, sources: Mapping[str, Source]) -> None:
    passages = block.passages
    store.add(
        [passage.doc_id for passage in passages],
        block.embeddings,
        [passage.text for passage in passages],
        [passage.metadata for passage in passages],
        sources=[None if passage.source is None else sources[passage.source] for passage in passages],
        positions=[passage.position for passage in passages],
    )


def _check_new_folder(output: str | Path, own: set[str]) -> None:
    """Refuse a folder that has other files than those of the engine."""
    path = Path(output)
    if "://" not in str(output) and path.exists():
        if not path.is_dir() or {entry.name for entry in path.iterdir()} - own:
            raise TargetExistsError(path, advice="Choose a path that does not exist.")


def is_export(path: str | Path) -> bool:
    """Whether a folder has an export to Parquet."""
    state = read_state(Path(path))
    return state is not None and state.get("to") == "parquet"


def import_export(path: str | Path, source: str | Path, progress: Progress) -> IndexInfo:
    """Create a new index from an export to Parquet.

    Args:
        path: the new index folder. It must not exist, or be empty.
        source: the folder of the export.
        progress: called with the progress.

    Raises:
        IndexDamagedError: if the export is not complete or cannot be read.
        TargetExistsError: if `path` is not an empty folder.
        MissingExtraError: if pyarrow is not installed.
    """
    from mlx_colbert.stores import parquet

    folder, state = Path(source), read_state(Path(source))
    existed = Path(path).exists()
    try:
        assert state is not None
        if not state["complete"]:
            raise IndexDamagedError(folder, "is an export that is not complete. Make the export again.")
        sources = {entry["uri"]: Source(**entry) for entry in json.loads((folder / _SOURCES).read_bytes())}
        n_parts = -(-state["passages"] // state["part_passages"])
        settings = {name: state[name] for name in ("exact_tokens", "model", "indexing")}
        dim, nbits, n_passages = state["dim"], cast(Bits, state["nbits"]), state["passages"]
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OSError) as error:
        if isinstance(error, IndexDamagedError):
            raise
        raise IndexDamagedError(folder, "is not an export that can be read.") from error
    parquet.fixed_files(dim)
    index = Index.create(path, dim, nbits=nbits, backend="numpy", **settings)
    try:
        with index.bulk(progress=progress):
            for number in range(n_parts):
                for columns, arrays in parquet.read_part(folder / parquet.PART.format(number), dim):
                    uris = columns["source"]
                    index.add(
                        columns["doc_id"],
                        arrays,
                        columns["text"],
                        columns["metadata"],
                        sources=[None if uri is None else sources.get(uri, Source(uri)) for uri in uris],
                        positions=columns["position"],
                    )
                    progress("importing", len(index), n_passages)
        if len(index) != n_passages:
            raise IndexDamagedError(folder, f"has {counted(len(index), 'passage')}, not {n_passages:,}.")
    except BaseException:
        _remove(index, existed)
        raise
    info = index.info()
    index.close()
    return info


def _remove(index: Index, existed: bool) -> None:
    index.delete(index.ids())
    index.discard_if_empty(keep_folder=existed)
