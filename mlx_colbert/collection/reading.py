"""Reads a file of a collection as passages. Their ids stay when other parts of the file change."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from mlx_colbert.collection.changes import File, source_of
from mlx_colbert.collection.state import UnreadFile
from mlx_colbert.documents.file_passages import passages_of, read_file
from mlx_colbert.documents.kinds import kind_of
from mlx_colbert.documents.passage import Passage, encoded_text
from mlx_colbert.documents.sources import content_hash
from mlx_colbert.documents.walk import FileState
from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.types import Source

__all__ = ["ReadFile", "moved_ids", "own_metadata", "read_passages_of"]

_ID_DIGITS = 8


@dataclass(frozen=True)
class ReadFile:
    """What was read from a file.

    Attributes:
        source: the source for it. None: its content could not be read.
        passages: its passages.
        unread: why there are none.
    """

    source: Source | None
    passages: list[Passage]
    unread: UnreadFile | None = None


def passage_ids(uri: str, texts: Iterable[str]) -> list[str]:
    """The ids of the passages of a file: its name, and a hash of the passage.

    A passage that did not change keeps its id if other passages of the file change. Equal passages are
    counted.

    Args:
        uri: the name of the file in the index.
        texts: the texts that the model reads, in their order in the file.

    >>> passage_ids("notes/tea.md", ["Steep it.", "Drink it.", "Steep it."])
    ['notes/tea.md#cd100bca', 'notes/tea.md#d8a93c64', 'notes/tea.md#901fcefc']
    """
    counts: Counter[str] = Counter()
    ids: dict[str, None] = {}
    for text in texts:
        counts[text] += 1
        while (doc_id := _passage_id(uri, text, counts[text])) in ids:
            # Two different passages with the same hash.
            counts[text] += 1
        ids[doc_id] = None
    return list(ids)


def moved_ids(uri: str, new_uri: str, texts: Mapping[str, str]) -> dict[str, str] | None:
    """The new id of each passage of a file that was moved. None: the ids are not those of `passage_ids`.

    Args:
        uri: the name that the file had in the index.
        new_uri: its new name.
        texts: id → the text that the model reads, in any order.
    """
    found = {}
    for doc_id, text in texts.items():
        numbers = range(1, len(texts) + 1)
        number = next((number for number in numbers if _passage_id(uri, text, number) == doc_id), None)
        if number is None:
            return None
        found[doc_id] = _passage_id(new_uri, text, number)
    return found if len(set(found.values())) == len(found) else None


def _passage_id(uri: str, text: str, number: int) -> str:
    digest = hashlib.sha256(f"{uri}\0{text}\0{number}".encode()).hexdigest()
    return f"{uri}#{digest[:_ID_DIGITS]}"


def read_passages_of(
    file: File, *, fits: Callable[[str], bool], max_file_bytes: int | None, known_hash: str | None = None
) -> ReadFile:
    """The passages of a file. A file that cannot be read gives the reason.

    Args:
        file: the file.
        fits: whether the model reads a text to its end.
        max_file_bytes: the size of the largest file that is read. None: the limit of its kind.
        known_hash: the hash of the content in the index. The passages of the same content are not read.
    """
    kind = kind_of(file.name, max_file_bytes=max_file_bytes)
    if kind is None:
        return ReadFile(None, [], UnreadFile(*file.state, "Files of this kind are not read."))
    if file.state.n_bytes > kind.max_bytes:
        most = f"Files of more than {kind.max_bytes:,} bytes are not read."
        reason = f"It has {file.state.n_bytes:,} bytes. {most}"
        return ReadFile(source_of(file, "", read_ns=0), [], UnreadFile(*file.state, reason))
    read_ns = time.time_ns()
    try:
        content = read_file(file.path, max_bytes=kind.max_bytes, within=file.folder)
    except (InputError, OSError) as error:
        return ReadFile(None, [], UnreadFile(*file.state, _reason(error, file), is_final=False))
    # The file may have changed since its folder was read.
    file = file._replace(state=FileState(len(content.data), content.status.st_mtime_ns))
    source = source_of(file, content_hash(hashlib.sha256(content.data).hexdigest()), read_ns=read_ns)
    if source.content_hash == known_hash:
        return ReadFile(source, [])
    state = (len(content.data), source.modified_ns or 0)
    try:
        found = list(passages_of(content.data, str(file.path), kind=kind, fits=fits))
    except MissingExtraError as error:
        return ReadFile(source, [], UnreadFile(*state, str(error), extra=error.extra))
    except InputError as error:
        return ReadFile(source, [], UnreadFile(*state, _reason(error, file)))
    if not found:
        return ReadFile(source, [], UnreadFile(*state))
    ids = passage_ids(file.uri, (encoded_text(passage.text, passage.position) for passage in found))
    own = own_metadata(file.uri, kind.name)
    return ReadFile(
        source,
        [
            Passage(doc_id, passage.text, {**(passage.metadata or {}), **own}, source, passage.position)
            for doc_id, passage in zip(ids, found, strict=True)
        ],
    )


def own_metadata(uri: str, kind: str) -> dict[str, str]:
    """The metadata that each passage of a file has."""
    return {"path": str(PurePosixPath(uri.partition("/")[2])), "kind": kind}


def _reason(error: Exception, file: File) -> str:
    """The problem of a file, without its path."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return str(error).removeprefix(f"{file.path}: ")
