"""The merge of parts: indexes of shards become one index, the same as one machine would have made.

::

    part 1/3 ─┐
    part 2/3 ─┼─ passages in the order of the input ──▶ .OUT.merging-… ── compress, rename ──▶ OUT
    part 3/3 ─┘      a window at a time

The new index is made beside its path, in transactions. So a merge that was stopped goes on with what is
there, and there is never an incomplete index at the path.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlx_colbert.counts import counted
from mlx_colbert.errors import IndexDamagedError, IndexStoreError, InputError, TargetExistsError
from mlx_colbert.index import Bits, Index, StoredPassage
from mlx_colbert.index.inspection import IndexInfo
from mlx_colbert.index.storage.files import sync_folder
from mlx_colbert.progress import Progress, shown
from mlx_colbert.retriever.part_record import PartRecord
from mlx_colbert.types import Array, Source

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["MergedIndex", "merge_index"]

# Token embeddings of a window: 32 MiB as float32 at D = 128, and as much again while they are written.
_WINDOW_TOKENS = 1 << 16
_AGAIN = "Make the part again."
# The file in the new index that says which parts it was made of.
_NOTE_NAME = "merged-parts"


@dataclass(frozen=True)
class MergedIndex:
    """The result of a merge.

    Attributes:
        parts: the number of parts.
        passages: the number of passages.
        tokens: the number of token embeddings.
    """

    parts: int
    passages: int
    tokens: int


def merge_index(
    path: str | Path,
    parts: Iterable[str | Path],
    *,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> MergedIndex:
    """Merge the parts that the machines made into one new index.

    It has the same ids, texts, metadata, sources and order as the index of a single run, and the vectors of
    the parts. Centroids are trained once, for all of them. The parts are only read. Each is verified first.
    The memory holds a window of passages, the ids, and what `Index.compact` needs. If the merge is stopped,
    the same call goes on with it.

    Args:
        path: the new index folder. It must not exist, or be empty, or be the merge of these parts.
        parts: the indexes of all shards, in any order (`Retriever.from_files(shard=…)`).
        backend: the kernels for the compression.
        progress: called with the progress (`mlx_colbert.progress`). Without it, a terminal shows a bar.

    Raises:
        IndexStoreError: if a part is not complete, is of other files, another model or other settings, or if
            (IndexDamagedError) it is damaged.
        InputError: if a shard is missing or given twice, or (DuplicateIdError) two parts have the same id.
        TargetExistsError: if `path` is anything else.
    """
    target = Path(path).absolute()
    with ExitStack() as stack, shown(progress) as told:
        opened = [_Part.open(Path(part).absolute(), stack, backend) for part in parts]
        _check_shards([part.record for part in opened])
        for part in opened[1:]:
            _check_same(opened[0], part)
        opened.sort(key=lambda part: part.record.number)
        digest = _digest(opened)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            note = target / _NOTE_NAME
            if not (note.is_file() and note.read_bytes() == digest.encode()):
                raise TargetExistsError(target, advice="Choose a path that does not exist.")
            # An earlier call was stopped after its last step, or the same call is made again.
            with Index.open(target, backend=backend) as index:
                return MergedIndex(len(opened), index.info().passages, index.info().tokens)
        beside = target.with_name(f".{target.name}.merging-{digest}")
        info = opened[0].info
        index = Index.create(
            beside,
            info.dim,
            nbits=cast(Bits, info.nbits),
            exact_tokens=opened[0].record.exact_tokens,
            model=info.model,
            indexing=info.indexing,
            backend=backend,
            exist_ok=True,
        )
        with index:
            _fill(index, opened, told)
            made = index.info()
        (beside / _NOTE_NAME).write_bytes(digest.encode())
        sync_folder(beside)
    if target.exists():
        target.rmdir()
    beside.rename(target)
    sync_folder(target.parent)
    return MergedIndex(len(opened), made.passages, made.tokens)


@dataclass(frozen=True, eq=False)
class _Part:
    """An open part.

    Attributes:
        index: its index.
        record: what it is.
        info: its size and settings.
        sources: its sources by uri.
    """

    index: Index
    record: PartRecord
    info: IndexInfo
    sources: dict[str, Source]

    @classmethod
    def open(cls, path: Path, stack: ExitStack, backend: Backend) -> _Part:
        """The part at a path, verified.

        Raises:
            IndexStoreError: if it is not a complete part, or is damaged.
        """
        index = stack.enter_context(Index.open(path, backend=backend))
        record = PartRecord.read(path)
        if record is None:
            raise IndexStoreError(path, "is not a part of a shard. Make parts with index --shard.")
        if record.passages is None:
            what = f"has shard {record.shard}, but not all of it"
            raise IndexStoreError(path, f"{what}. Run the command that makes it again: it goes on.")
        if problems := index.verify():
            raise IndexDamagedError(path, f"is damaged: {problems[0]} {_AGAIN}")
        info = index.info()
        if info.passages != record.passages:
            what = (
                f"has {counted(info.passages, 'passage')}, but shard {record.shard} had {record.passages:,}"
            )
            raise IndexStoreError(path, f"{what} when it was complete. {_AGAIN}")
        sources = {}
        for source in index.sources():
            if source.uri not in record.files:
                raise IndexDamagedError(path, f"does not record the place of {source.uri}. {_AGAIN}")
            # A part that was interrupted has it without its content hash, until it is complete.
            sources[source.uri] = replace(source, content_hash=record.files[source.uri][1])
        return cls(index, record, info, sources)

    def passages(self) -> Iterator[tuple[tuple[int, int], _Part, StoredPassage]]:
        """The passages in order, each with its place: the number of its file, and its line there."""
        for passage in self.index.passages():
            if passage.source is None:
                what = f"has the passage {passage.doc_id!r} without a source"
                raise IndexStoreError(self.index.path, f"{what}: it was added later. {_AGAIN}")
            # Only a file of rows is in several parts. Its lines ascend in each.
            line = cast(Any, passage.position or {}).get("lines", [0])[0]
            yield (self.record.files[passage.source][0], line), self, passage


def _check_shards(records: Sequence[PartRecord]) -> None:
    """Raise an error if a shard is missing or given twice.

    Raises:
        InputError: the message names the shards.
    """
    if not records:
        raise InputError("there are no parts to merge. Give the index of each shard.")
    n = records[0].n
    counts = Counter(record.number for record in records)
    twice = [f"{number}/{n}" for number, count in sorted(counts.items()) if count > 1]
    if twice:
        raise InputError(f"shard {', '.join(twice)} is given twice. Give each part once.")
    missing = [f"{number}/{n}" for number in range(1, n + 1) if number not in counts]
    if missing and all(record.n == n for record in records):
        raise InputError(
            f"shard {', '.join(missing[:5])} is missing ({len(missing)} of {n}). Give all parts."
        )


def _check_same(first: _Part, other: _Part) -> None:
    """Raise an error if two parts cannot be of the same run.

    Raises:
        IndexStoreError: the message names the first difference.
    """

    def settings(part: _Part) -> dict[str, Any]:
        model = dict(part.info.model or {})
        return {
            "number of shards": part.record.n,
            "model": model.get("fingerprint", model.get("source")),
            "dim": part.info.dim,
            "nbits": part.info.nbits,
            "exact_tokens": part.record.exact_tokens,
            "settings of indexing": dict(part.info.indexing),
        }

    theirs = settings(first)
    for name, ours in settings(other).items():
        if theirs[name] != ours:
            what = f"has the {name} {ours}, but {first.index.path} has {theirs[name]}"
            raise IndexStoreError(other.index.path, f"{what}. {_AGAIN}")
    if first.record.inputs != other.record.inputs:
        what = f"was made from other files than {first.index.path}: a name or a size is not the same"
        raise IndexStoreError(other.index.path, f"{what}. {_AGAIN}")


def _sources(parts: Sequence[_Part]) -> dict[str, Source]:
    """The sources of all parts, by uri.

    Raises:
        IndexStoreError: if two parts have a file with another content.
    """
    sources: dict[str, Source] = {}
    for part in parts:
        for uri, source in part.sources.items():
            if sources.setdefault(uri, source).content_hash != source.content_hash:
                what = f"has another content of {uri} than the parts before it"
                raise IndexStoreError(part.index.path, f"{what}. Make all parts of the same files.")
    return sources


def _digest(parts: Sequence[_Part]) -> str:
    """A digest of what is merged, so that a merge goes on with the same parts only."""
    values = [[vars(part.record), dict(part.info.model or {}), dict(part.info.indexing)] for part in parts]
    hashes = [sorted((uri, source.content_hash) for uri, source in part.sources.items()) for part in parts]
    return hashlib.sha256(json.dumps([values, hashes], sort_keys=True).encode()).hexdigest()[:12]


def _fill(index: Index, parts: Sequence[_Part], progress: Progress) -> None:
    """Add the passages of all parts that the index does not have, and compress it if it is large enough."""
    sources = _sources(parts)
    total = sum(part.info.tokens for part in parts)
    n_done, done = len(index), index.info().tokens
    progress("writing", done, total)
    ordered = heapq.merge(*(part.passages() for part in parts), key=lambda found: found[0])
    with index.bulk(progress=progress):
        for window in _windows(islice(ordered, n_done, None)):
            passages = [passage for _, passage in window]
            index.add(
                [passage.doc_id for passage in passages],
                _embeddings(window),
                [passage.text for passage in passages],
                [passage.metadata for passage in passages],
                sources=[sources[cast(str, passage.source)] for passage in passages],
                positions=[passage.position for passage in passages],
            )
            done += sum(passage.n_tokens for passage in passages)
            progress("writing", done, total)


def _windows(
    ordered: Iterable[tuple[Any, _Part, StoredPassage]],
) -> Iterator[list[tuple[_Part, StoredPassage]]]:
    window: list[tuple[_Part, StoredPassage]] = []
    n_tokens = 0
    for _, part, passage in ordered:
        if window and n_tokens + passage.n_tokens > _WINDOW_TOKENS:
            yield window
            window, n_tokens = [], 0
        window.append((part, passage))
        n_tokens += passage.n_tokens
    if window:
        yield window


def _embeddings(window: Sequence[tuple[_Part, StoredPassage]]) -> list[Array]:
    """The token embeddings of the passages of a window."""
    found: dict[str, Array] = {}
    for part in {id(part): part for part, _ in window}.values():
        ids = [passage.doc_id for own, passage in window if own is part]
        found |= zip(ids, part.index.embeddings(ids), strict=True)
    return [found[passage.doc_id] for _, passage in window]
