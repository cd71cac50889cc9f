"""Files and folders to passages, and what of them could not be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from mlx_colbert.checks import is_text
from mlx_colbert.documents.decoding import MAX_BYTES, decode, decoded_lines
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.records import csv_records, json_records, passage_of_record, tsv_records
from mlx_colbert.documents.sources import FolderLabels
from mlx_colbert.documents.splitting import split_passages
from mlx_colbert.errors import DuplicateIdError, InputError
from mlx_colbert.types import Source

__all__ = ["RECORD_SUFFIXES", "Unread", "read_lines", "read_passages"]

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".mdx", ".rst", ".org", ".adoc")
_RECORDS = {".jsonl": json_records, ".csv": csv_records, ".tsv": tsv_records}
RECORD_SUFFIXES = tuple(_RECORDS)
# Folders of a folder that hold what programs put there.
PROGRAM_FOLDERS = frozenset({"node_modules", "bower_components", "__pycache__", "site-packages"})


@dataclass
class Unread:
    """What was left out when files and folders were read.

    Attributes:
        files: path of each file or folder that could not be read -> why not.
        kinds: what else was passed over in folders, by suffix or kind -> how many.
    """

    files: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Forgets all, to read again."""
        self.files.clear()
        self.kinds.clear()


def read_passages(
    inputs: str | Path | Iterable[str | Path],
    *,
    fits: Callable[[str], bool] | None = None,
    unread: Unread | None = None,
    labels: FolderLabels | None = None,
) -> Iterator[Passage]:
    """The passages of files and folders, in the order given, read as they are asked for.

    A file `a.md` in a folder `notes` is named `notes/a.md`, whether the folder or the file was given. Its
    passages follow each other, and say which source they come from and which lines they have there.

    - `.jsonl`: one object per line. `text` (or `contents`) is required; the id is `doc_id`, `id` or `_id`, or
      else file and line, as in `data/rows.jsonl:17`; a `title` is put before the text, as BEIR does;
      `metadata` is an object, and every other key joins it. Blank lines are skipped.
    - `.csv`: a header with the same names, commas, double quotes; every other column is metadata. A column
      whose cells are all numbers gives numbers. An empty cell gives no metadata.
    - `.tsv`: tabs between the fields of a line. A first line may name them as in `.csv`; else they are id,
      text and title, as in colbert-ai's collections.
    - Text (`.txt`, `.md`, `.rst`, `.org` and the like, or a README): split by `split_passages`; the id is the
      file and a number, as in `notes/a.md#2`.
    - A folder: its text files, recursively, sorted; `metadata["path"]` is relative to it. Hidden files, other
      kinds, and folders such as `node_modules`, a virtual environment or an index are passed over; links
      to folders are not followed.

    Files are UTF-8, UTF-16 with a byte order mark, or Latin-1; lines end as on any system.

    Args:
        inputs: a path or several.
        fits: whether a model reads a text to its end, for `split_passages`.
        unread: is told which files of a folder could not be read, and what was passed over; reading goes on
            then. Without it such a file is an error. It is cleared first.
        labels: the labels of folders that have one; others get one here.

    Raises:
        InputError: if a file cannot be understood (the message has the line), or holds no text.
        DuplicateIdError: if two passages have one id.
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
    return f"has no text file with text, such as .txt or .md. Nothing was read from it.{more}"


def read_lines(stream: BinaryIO, *, name: str) -> Iterator[Passage]:
    r"""One passage per line that is not blank; its id is the line's number.

    Args:
        stream: UTF-8 bytes.
        name: stands for the stream in errors.

    Raises:
        InputError: if a line is not UTF-8 or too long, or no line has text.

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
    """(place for errors, passage) of one file or folder."""
    if path.is_dir():
        yield from _folder_passages(path, fits, unread, labels)
        return
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise InputError(f"{path}: is not a regular file, and not a folder.")
    suffix = path.suffix.lower()
    if _is_text_file(path.name):
        yield from _text_passages(path, path.parent, fits, labels)
    elif records := _RECORDS.get(suffix):
        source = _source(path, path.parent, labels)
        with path.open("rb") as stream:
            for lines, record in records(stream, str(path)):
                place = f"{path}:{lines[0]}"
                passage = passage_of_record(record, place, default_id=f"{source.uri}:{lines[0]}")
                yield place, replace(passage, source=source, position={"lines": lines})
    else:
        path.stat()  # a file that is missing is the first thing to say
        raise InputError(f"{path}: is not a .jsonl, .csv, .tsv, .txt or .md file, nor a folder.")


def _is_text_file(name: str) -> bool:
    return name.lower() == "readme" or Path(name).suffix.lower() in TEXT_SUFFIXES


def _folder_passages(
    folder: Path, fits: Callable[[str], bool] | None, unread: Unread | None, labels: FolderLabels
) -> Iterator[tuple[str, Passage]]:
    for file in _text_files(folder, unread):
        try:
            passages = list(_text_passages(file, folder, fits, labels))
        except (InputError, OSError) as error:
            _leave_out(file, error, unread)
            continue
        if unread is not None and not passages:
            unread.kinds["empty"] += 1
        yield from passages


def _leave_out(path: Path, error: Exception, unread: Unread | None) -> None:
    """Notes that a file or a folder cannot be read, or raises the error."""
    if unread is None:
        raise error
    system = error.strerror if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        system = "is a link to a file that does not exist"
    unread.files[str(path)] = f"{system}." if system else str(error).removeprefix(f"{path}: ")


def _text_files(folder: Path, unread: Unread | None) -> list[Path]:
    """The text files of a folder, sorted."""

    def refuse(error: OSError) -> None:
        at_fault = Path(error.filename)
        _leave_out(at_fault, error, None if at_fault == folder else unread)

    found: list[Path] = []
    kinds: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        visible = [Path(parent, name) for name in folders if not name.startswith(".")]
        passed_over = {path.name: kind for path in visible if (kind := _kind_of_folder(path))}
        kinds.update(passed_over.values())
        folders[:] = [path.name for path in visible if path.name not in passed_over]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if not _is_text_file(path.name):
                kinds[path.suffix.lower() or "no suffix"] += 1
            elif path.exists() and not path.is_file():
                kinds["no regular file"] += 1
            else:
                found.append(path)
    if unread is not None:
        unread.kinds.update(kinds)
    return sorted(found)


def _kind_of_folder(path: Path) -> str | None:
    """What a folder is that is passed over; None for one that is read."""
    if path.is_symlink():
        return "linked folder"
    if path.name in PROGRAM_FOLDERS:
        return f"{path.name}/"
    if (path / "catalog.db").exists():
        return "index"
    return "virtual environment" if (path / "pyvenv.cfg").exists() else None


def _text_passages(
    path: Path, folder: Path, fits: Callable[[str], bool] | None, labels: FolderLabels
) -> Iterator[tuple[str, Passage]]:
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: is longer than {MAX_BYTES:,} bytes. Split it, or give a .jsonl file.")
    text = decode(data, str(path))
    source = _source(path, folder, labels)
    metadata = {"path": source.uri.partition("/")[2]}
    line, end = 1, 0
    for number, passage in enumerate(split_passages(text, fits=fits), start=1):
        start = text.index(passage, end)
        first = line + text.count("\n", end, start)
        end = start + len(passage)
        line = first + passage.count("\n")
        doc_id = f"{source.uri}#{number}"
        yield f"{path}#{number}", Passage(doc_id, passage, metadata, source, {"lines": [first, line]})


def _source(path: Path, folder: Path, labels: FolderLabels) -> Source:
    """The source that a file is, which was given or is in a folder that was given."""
    name = path.relative_to(folder).as_posix()
    if not is_text(name):
        raise InputError(f"{path}: its name is not UTF-8. Rename it.")
    return labels.source(folder, name)
