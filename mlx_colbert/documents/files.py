"""Reads passages from files and folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from mlx_colbert.checks import check_whole, is_text
from mlx_colbert.documents.decoding import decoded_lines
from mlx_colbert.documents.file_passages import read_file, too_large
from mlx_colbert.documents.input_file import EMPTY, RECORD_SUFFIXES, InputFile
from mlx_colbert.documents.kinds import KINDS, Kind, kind_of
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.shard import ShardInputs
from mlx_colbert.documents.sources import FolderLabels
from mlx_colbert.documents.unread import Unread
from mlx_colbert.errors import DuplicateIdError, InputError, MissingExtraError
from mlx_colbert.types import Source

__all__ = ["IdPlaces", "read_files", "read_lines", "read_passages"]


def read_passages(
    inputs: str | Path | Iterable[str | Path],
    *,
    fits: Callable[[str], bool] | None = None,
    unread: Unread | None = None,
    keep_blank: bool = False,
    max_file_bytes: int | None = None,
) -> Iterator[Passage]:
    """The passages of files and folders, in the order given. A file is read when its passages are needed.

    A file `a.md` in a folder `notes` has the name `notes/a.md`, if the folder or if the file was given. The
    passages of a file are consecutive. Each has its source (the file) and its lines there.

    - `.jsonl`: one object per line. `text` (or `contents`) is required. The id is `doc_id`, `id` or `_id`;
      without them it is the file and the line, as in `data/rows.jsonl:17`. A `title` is put before the text,
      as in BEIR. `metadata` is an object; every other key becomes metadata too.
    - `.csv`: a header with the same names, commas, double quotes. Every other column is metadata. If all
      cells of a column are numbers, the metadata are numbers. An empty cell gives no metadata.
    - `.tsv`: tabs between the fields of a line. The first line may name the fields as in `.csv`. Without
      names they are id, text and title, as in the collections of colbert-ai.
    - Blank lines, and rows without a title and a text, are left out.
    - Every other kind of `mlx_colbert.documents.kinds`: cut into passages by `mlx_colbert.documents.joining`.
      The id is the file and a number, as in `notes/a.md#2`.
    - A folder: its files of these kinds and those of its folders, sorted. `metadata["path"]` is relative to
      the folder. Rows are passed over, and what `mlx_colbert.documents.walk` leaves out: hidden files, other
      kinds of files, what .gitignore and the like name, folders such as `node_modules`, a virtual environment
      or an index. Links to folders, and links to files outside the folder, are not followed.

    Files are UTF-8, UTF-16 with a byte order mark, or Latin-1. Lines may end as on any system.

    Args:
        inputs: a path or several.
        fits: whether a model reads a text to its end. It decides where long files are cut.
        unread: receives the files of a folder that could not be read, the kinds that were passed over, and
            the number of blank rows. The other files are read then. Without it, such a file is an error. It
            is cleared first.
        keep_blank: keep rows without a title and a text, for a file that must have a row for each passage of
            an index.
        max_file_bytes: the size of the largest file that is read, in bytes. None: the limit of its kind, and
            none for a file of rows.

    Raises:
        InputError: if a file cannot be read as its format (the message has the line), or has no text.
        DuplicateIdError: if two passages have the same id.
        OSError: if a file cannot be read.
    """
    places = IdPlaces()
    for file in read_files(inputs, unread=unread, max_file_bytes=max_file_bytes):
        for place, passage in file.passages(fits, unread=unread, keep_blank=keep_blank):
            places.add(passage.doc_id, place)
            yield passage


class IdPlaces:
    """The place of each id that was read. An id may have only one."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def add(self, doc_id: str, place: str) -> None:
        """Note the place of an id.

        Raises:
            DuplicateIdError: if the id has a place already, which may be the same: a file may be given twice.
        """
        if doc_id in self._places:
            places = f"at {self._places[doc_id]} and at {place}"
            raise DuplicateIdError([doc_id], reason=f"is given twice, {places}. Give each its own id.")
        self._places[doc_id] = place


def read_files(
    inputs: str | Path | Iterable[str | Path],
    *,
    unread: Unread | None = None,
    labels: FolderLabels | None = None,
    known: Container[Source] = (),
    max_file_bytes: int | None = None,
    shard: ShardInputs | None = None,
) -> Iterator[InputFile]:
    """The files of `read_passages`, one after another, with those of a folder that are blank.

    The bytes of a file that has no rows are read once.

    Args:
        inputs: as for `read_passages`.
        unread: as for `read_passages`.
        labels: the labels of folders that have one. Other folders get one here.
        known: sources whose passages are not needed. Only their bytes are read.
        max_file_bytes: as for `read_passages`.
        shard: read only the files of a shard.

    Raises:
        InputError: if a file cannot be read, or has no text. Rows are not checked here.
        MissingExtraError: if a file that was given needs an extra of this package.
        OSError: if a file cannot be read.
    """
    if unread is not None:
        unread.clear()
    labels = labels or FolderLabels()
    if max_file_bytes is not None:
        max_file_bytes = check_whole(max_file_bytes, "max_file_bytes", at_least=1)
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        if not isinstance(given, str | os.PathLike) or given == "":
            raise InputError(f"an input is {given!r}. Give the path of a file or a folder.")
        path, empty = Path(given), True
        rest = labels, known, max_file_bytes, shard
        for file in _folder_files(path, unread, *rest) if path.is_dir() else [_file(path, *rest)]:
            empty = empty and file is not None and file.is_blank
            if file is None:
                continue
            if shard is not None:
                shard.note(file.source)
            yield file
        if empty:
            raise InputError(f"{path}: {_emptiness(path, unread)}")


def _emptiness(path: Path, unread: Unread | None) -> str:
    if not path.is_dir():
        return EMPTY
    failed = [f"{file}: {reason}" for file, reason in (unread.files if unread else {}).items()]
    more = f" {len(failed)} of its files could not be read; the first is {failed[0]}" if failed else ""
    return f"has no file with text, such as .md or .pdf. Nothing was read from it.{more}"


def read_lines(stream: BinaryIO, *, name: str) -> Iterator[Passage]:
    r"""One passage for each line that is not blank. Its id is the number of the line.

    Args:
        stream: UTF-8 bytes.
        name: the name of the stream in an error message.

    Raises:
        InputError: if a line is not UTF-8 or is too long, or if no line has text.

    >>> import io
    >>> [(p.doc_id, p.text) for p in read_lines(io.BytesIO(b"One.\n\nTwo.\n"), name="stdin")]
    [('1', 'One.'), ('3', 'Two.')]
    """
    empty = True
    for number, line in decoded_lines(stream, name, encoding="utf-8-sig"):
        if line.strip():
            empty = False
            yield Passage(str(number), line.strip())
    if empty:
        raise InputError(f"{name}: {EMPTY}")


def _file(
    path: Path,
    labels: FolderLabels,
    known: Container[Source],
    max_file_bytes: int | None,
    shard: ShardInputs | None,
) -> InputFile | None:
    """A file that was given. None: it belongs to another shard."""
    if path.exists() and not path.is_file():  # to read a pipe could wait for ever
        raise InputError(f"{path}: is not a regular file or a folder.")
    if (kind := _kind_of(path, max_file_bytes)) is not None:
        return (
            _read(path, kind, path.parent, labels, known)
            if _is_taken(path, path.parent, labels, shard)
            else None
        )
    if path.suffix.lower() not in RECORD_SUFFIXES:
        path.stat()  # raises for a missing file
        kinds = ", ".join(kind.suffixes[0] for kind in KINDS)
        raise InputError(
            f"{path}: files of this kind are not read. Give a folder, or a file such as {kinds}."
        )
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if max_file_bytes is not None and status.st_size > max_file_bytes:
            raise too_large(path, max_file_bytes)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    source = labels.source(path.parent, _name(path, path.parent), status, sha256)
    if shard is None:
        return InputFile(path, source)
    shard.takes(source.uri, status.st_size, has_rows=True)
    return InputFile(path, source, shard=shard.shard)


def _kind_of(path: Path, max_file_bytes: int | None) -> Kind | None:
    """The kind of a file that is cut into passages, with this limit. None for rows, and what is not read."""
    is_rows = path.suffix.lower() in RECORD_SUFFIXES
    return None if is_rows else kind_of(path.name, max_file_bytes=max_file_bytes)


def _folder_files(
    folder: Path,
    unread: Unread | None,
    labels: FolderLabels,
    known: Container[Source],
    max_file_bytes: int | None,
    shard: ShardInputs | None,
) -> Iterator[InputFile | None]:
    # Not at the top: a search walks through no folder, and the patterns take longer to import than a query.
    from mlx_colbert.documents.ignore_rules import Rules
    from mlx_colbert.documents.walk import walk

    listed = walk(Path(os.path.realpath(folder)), Rules())
    for place, reason in listed.unlisted.items():
        error = InputError(f"{folder / place}: {reason}")
        if unread is None or not place:
            raise error
        unread.note(folder / place, error)
    files = []
    for path in (folder / name for name in listed.files):
        if (kind := _kind_of(path, max_file_bytes)) is None:
            listed.passed_over[path.suffix.lower()] += 1
        else:
            files.append((path, kind))
    if unread is not None:
        unread.kinds.update(listed.passed_over)
    for path, kind in files:
        try:
            if not _is_taken(path, folder, labels, shard):
                yield None
                continue
            file = _read(path, kind, folder, labels, known)
        except (InputError, MissingExtraError, OSError) as error:
            if unread is None:
                raise
            unread.note(path, error)
            continue
        if file.is_blank and unread is not None:
            unread.kinds["empty"] += 1
        yield file


def _is_taken(path: Path, folder: Path, labels: FolderLabels, shard: ShardInputs | None) -> bool:
    """Whether a file without rows is read: without a shard, or if it belongs to the shard."""
    if shard is None:
        return True
    return shard.takes(labels.uri(folder, _name(path, folder)), path.stat().st_size, has_rows=False)


def _read(path: Path, kind: Kind, folder: Path, labels: FolderLabels, known: Container[Source]) -> InputFile:
    """A file that was given, or that is in a folder that was given."""
    content = read_file(path, max_bytes=kind.max_bytes)
    sha256 = hashlib.sha256(content.data).hexdigest()
    source = labels.source(folder, _name(path, folder), content.status, sha256)
    if source in known:
        return InputFile(path, source, kind)
    return InputFile(path, source, kind, list(kind.parts(content.data, str(path))))


def _name(path: Path, folder: Path) -> str:
    """The path of a file in a folder, with slashes."""
    name = path.relative_to(folder).as_posix()
    if not is_text(name):
        raise InputError(f"{path}: its name is not UTF-8. Rename it.")
    return name
