"""Reads passages from files and folders, and notes what could not be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from mlx_colbert.checks import is_text
from mlx_colbert.documents.decoding import decoded_lines
from mlx_colbert.documents.file_passages import passages_of, read_file
from mlx_colbert.documents.kinds import Kind, kind_of
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.records import csv_records, json_records, passage_of_record, tsv_records
from mlx_colbert.documents.sources import FolderLabels
from mlx_colbert.errors import DuplicateIdError, InputError, MissingExtraError
from mlx_colbert.types import Source

__all__ = ["RECORD_SUFFIXES", "Unread", "read_lines", "read_passages"]

_RECORDS = {".jsonl": json_records, ".csv": csv_records, ".tsv": tsv_records}
RECORD_SUFFIXES = tuple(_RECORDS)
# Folders with files that programs made.
PROGRAM_FOLDERS = frozenset({"node_modules", "bower_components", "__pycache__", "site-packages"})


@dataclass
class Unread:
    """The files that were left out when files and folders were read.

    Attributes:
        files: path of each file or folder that could not be read -> the reason.
        kinds: suffix or kind of the files that were passed over in folders -> their number.
        waiting: name of an extra of this package that is not installed -> the number of files that need it.
    """

    files: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Remove all entries, before files are read again."""
        self.files.clear()
        self.kinds.clear()
        self.waiting.clear()


def read_passages(
    inputs: str | Path | Iterable[str | Path],
    *,
    fits: Callable[[str], bool] | None = None,
    unread: Unread | None = None,
    labels: FolderLabels | None = None,
) -> Iterator[Passage]:
    """The passages of files and folders, in the order given. A file is read when its passages are needed.

    A file `a.md` in a folder `notes` has the name `notes/a.md`, if the folder or if the file was given. The
    passages of a file are consecutive. Each has its source (the file) and its lines there.

    - `.jsonl`: one object per line. `text` (or `contents`) is required. The id is `doc_id`, `id` or `_id`;
      without them it is the file and the line, as in `data/rows.jsonl:17`. A `title` is put before the text,
      as in BEIR. `metadata` is an object; every other key becomes metadata too. Blank lines are skipped.
    - `.csv`: a header with the same names, commas, double quotes. Every other column is metadata. If all
      cells of a column are numbers, the metadata are numbers. An empty cell gives no metadata.
    - `.tsv`: tabs between the fields of a line. The first line may name the fields as in `.csv`. Without
      names they are id, text and title, as in the collections of colbert-ai.
    - Every other kind of `mlx_colbert.documents.kinds`: cut into passages by `mlx_colbert.documents.joining`.
      The id is the file and a number, as in `notes/a.md#2`.
    - A folder: its files of these kinds and those of its folders, sorted. `metadata["path"]` is relative to
      the folder. Hidden files, rows, other kinds of files, and folders such as `node_modules`, a virtual
      environment or an index are passed over. Links to folders, and links to files outside the folder, are
      not followed.

    Files are UTF-8, UTF-16 with a byte order mark, or Latin-1. Lines may end as on any system.

    Args:
        inputs: a path or several.
        fits: whether a model reads a text to its end. It decides where long files are cut.
        unread: receives the files of a folder that could not be read, and the kinds that were passed over.
            The other files are read then. Without it, such a file is an error. It is cleared first.
        labels: the labels of folders that have one. Other folders get one here.

    Raises:
        InputError: if a file cannot be read as its format (the message has the line), or has no text.
        DuplicateIdError: if two passages have the same id.
        OSError: if a file cannot be read.
    """
    if unread is not None:
        unread.clear()
    places: dict[str, str] = {}
    labels = labels or FolderLabels()
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        if not isinstance(given, str | os.PathLike) or given == "":
            raise InputError(f"an input is {given!r}. Give the path of a file or a folder.")
        path, empty = Path(given), True
        for place, passage in _located_passages(path, fits, unread, labels):
            first = places.setdefault(passage.doc_id, place)
            if first is not place:  # by identity: the same file may be given twice
                raise DuplicateIdError(
                    [passage.doc_id],
                    reason=f"is given twice, at {first} and at {place}. Give each its own id.",
                )
            empty = False
            yield passage
        if empty:
            raise InputError(f"{path}: {_emptiness(path, unread)}")


def _emptiness(path: Path, unread: Unread | None) -> str:
    if not path.is_dir():
        return "is empty. Nothing was read from it."
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
        raise InputError(f"{name}: is empty. Nothing was read from it.")


def _located_passages(
    path: Path, fits: Callable[[str], bool] | None, unread: Unread | None, labels: FolderLabels
) -> Iterator[tuple[str, Passage]]:
    """(place for an error message, passage) of each passage in one file or folder."""
    if path.is_dir():
        yield from _folder_passages(path, fits, unread, labels)
        return
    if path.exists() and not path.is_file():  # to read a pipe could wait for ever
        raise InputError(f"{path}: is not a regular file or a folder.")
    suffix = path.suffix.lower()
    if (kind := _kind_of(path)) is not None:
        yield from _file_passages(path, kind, path.parent, fits, labels)
    elif records := _RECORDS.get(suffix):
        source = _source(path, path.parent, labels)
        with path.open("rb") as stream:
            for lines, record in records(stream, str(path)):
                place = f"{path}:{lines[0]}"
                passage = passage_of_record(record, place, default_id=f"{source.uri}:{lines[0]}")
                yield place, replace(passage, source=source, position={"lines": lines})
    else:
        path.stat()  # raises for a missing file
        raise InputError(f"{path}: is of no kind that is read. Give a folder, or a file such as .md or .pdf.")


def _kind_of(path: Path) -> Kind | None:
    """The kind of a file that is cut into passages. None for rows, and for what is not read."""
    return None if path.suffix.lower() in RECORD_SUFFIXES else kind_of(path.name)


def _folder_passages(
    folder: Path, fits: Callable[[str], bool] | None, unread: Unread | None, labels: FolderLabels
) -> Iterator[tuple[str, Passage]]:
    for file, kind in _files(folder, unread):
        try:
            passages = list(_file_passages(file, kind, folder, fits, labels))
        except (InputError, MissingExtraError, OSError) as error:
            _leave_out(file, error, unread)
            continue
        if unread is not None and not passages:
            unread.kinds["empty"] += 1
        yield from passages


def _leave_out(path: Path, error: Exception, unread: Unread | None) -> None:
    """Note that a file or a folder cannot be read. Without `unread`, raise the error."""
    if unread is None:
        raise error
    if isinstance(error, MissingExtraError):
        unread.waiting[error.extra] += 1
        return
    system = error.strerror if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        system = "is a link to a file that does not exist"
    unread.files[str(path)] = f"{system}." if system else str(error).removeprefix(f"{path}: ")


def _files(folder: Path, unread: Unread | None) -> list[tuple[Path, Kind]]:
    """The files of a folder that are read, sorted, with their kinds."""

    def refuse(error: OSError) -> None:
        at_fault = Path(error.filename)
        _leave_out(at_fault, error, None if at_fault == folder else unread)

    found: list[tuple[Path, Kind]] = []
    kinds: Counter[str] = Counter()
    root = folder.resolve()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        visible = [Path(parent, name) for name in folders if not name.startswith(".")]
        passed_over = {path.name: kind for path in visible if (kind := _kind_of_folder(path))}
        kinds.update(passed_over.values())
        folders[:] = [path.name for path in visible if path.name not in passed_over]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            file_kind = _kind_of(path)
            if file_kind is None:
                kinds[path.suffix.lower() or "no suffix"] += 1
            elif path.exists() and not path.is_file():
                kinds["no regular file"] += 1
            elif path.is_symlink() and path.exists() and not path.resolve().is_relative_to(root):
                # What it shows may not be meant to be indexed: a folder may come from somebody else.
                kinds["link out of the folder"] += 1
            else:
                found.append((path, file_kind))
    if unread is not None:
        unread.kinds.update(kinds)
    return sorted(found, key=lambda file: file[0])


def _kind_of_folder(path: Path) -> str | None:
    """The kind of a folder that is passed over. None for a folder that is read."""
    if path.is_symlink():
        return "linked folder"
    if path.name in PROGRAM_FOLDERS:
        return f"{path.name}/"
    if (path / "catalog.db").exists():
        return "index"
    return "virtual environment" if (path / "pyvenv.cfg").exists() else None


def _file_passages(
    path: Path, kind: Kind, folder: Path, fits: Callable[[str], bool] | None, labels: FolderLabels
) -> Iterator[tuple[str, Passage]]:
    content = read_file(path, max_bytes=kind.max_bytes)
    source = _source(path, folder, labels)
    own = {"path": source.uri.partition("/")[2], "kind": kind.name}
    found = passages_of(content.data, str(path), kind=kind, fits=fits)
    for number, passage in enumerate(found, start=1):
        metadata = {**(passage.metadata or {}), **own}
        doc_id = f"{source.uri}#{number}"
        yield f"{path}#{number}", Passage(doc_id, passage.text, metadata, source, passage.position)


def _source(path: Path, folder: Path, labels: FolderLabels) -> Source:
    """The source for a file that was given, or that is in a folder that was given."""
    name = path.relative_to(folder).as_posix()
    if not is_text(name):
        raise InputError(f"{path}: its name is not UTF-8. Rename it.")
    return labels.source(folder, name)
