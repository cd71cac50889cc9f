"""Passages from files: JSON Lines and CSV rows as they are, text and Markdown files split into passages.

A model reads the first `document_length` tokens of a text (180 to 300 for most checkpoints) and no more.
So `.txt` and `.md` files are split at blank lines and sentences, until the model reads each passage to its
end; a row of a `.jsonl` or `.csv` file is one passage, because its author has chosen the unit. The passages
of a file `a.md` in a folder `notes` are named `notes/a.md#1`, `notes/a.md#2`, ….
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mlx_colbert.checks import is_text, json_text, metadata_text
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.sources import FolderLabels
from mlx_colbert.errors import DuplicateIdError, InputError

__all__ = ["MAX_BYTES", "read_lines", "read_passages", "split_passages"]

# The longest line, and the longest text file, that is read: more is a mistake or an attack on the memory.
MAX_BYTES = 16 * 1024 * 1024

ID_FIELDS = ("doc_id", "id", "_id")
TEXT_FIELDS = ("text", "contents")
TEXT_SUFFIXES = (".txt", ".md")

# Han, kana, Thai, Lao, Burmese and Khmer are written without spaces: each character counts as a word. A run
# of other characters counts as a word for each 16, so that a long link or a line of base64 is split too.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,16}}")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
# \u3002 \uff01 \uff1f: the full stop, exclamation and question mark of Chinese and Japanese.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")


def read_passages(
    inputs: str | Path | Iterable[str | Path],
    *,
    fits: Callable[[str], bool] | None = None,
    labels: FolderLabels | None = None,
) -> Iterator[Passage]:
    """The passages of files and folders, in the order given, read as they are asked for.

    A file `a.md` in a folder `notes` is named `notes/a.md`, whether the folder or the file was given. Its
    passages follow each other, and say which source they come from and which lines they have there.

    - `.jsonl`: one object per line. `text` (or `contents`) is required; the id is `doc_id`, `id` or `_id`, or
      else file and line, as in `data/rows.jsonl:17`; a `title` is put before the text, as BEIR does;
      `metadata` is an object, and every other key joins it. Blank lines are skipped.
    - `.csv`: a header with the same names, commas, double quotes; every other column is metadata.
    - `.txt`, `.md`: split by `split_passages`; the id is the file and a number, as in `notes/a.md#2`.
    - a folder: its `.txt` and `.md` files, recursively, sorted; `metadata["path"]` is relative to it. Hidden
      files and other kinds are skipped; links to folders are not followed.

    Args:
        inputs: a path or several.
        fits: whether a model reads a text to its end, for `split_passages`.
        labels: the labels of folders that have one; others get one here.

    Raises:
        InputError: if a file cannot be understood (the message has the line), or holds no text.
        DuplicateIdError: if two passages have one id.
        OSError: if a file cannot be read.
    """
    places: dict[str, str] = {}
    labels = labels or FolderLabels()
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        if given == "":
            raise InputError("an input is empty: give a file or a folder.")
        path, empty = Path(given), True
        for place, passage in _located_passages(path, fits, labels):
            first = places.setdefault(passage.doc_id, place)
            if first is not place:  # by identity: the same file may be given twice
                raise DuplicateIdError(
                    [passage.doc_id],
                    reason=f"is given twice, at {first} and at {place}. Each needs an id of its own.",
                )
            empty = False
            yield passage
        if empty:
            what = "holds no .txt or .md file with text" if path.is_dir() else "is empty"
            raise InputError(f"{path}: {what}. Nothing was read from it.")


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
    for number, line in _decoded_lines(stream, name):
        if line.strip():
            empty = False
            yield Passage(str(number), line.strip())
    if empty:
        raise InputError(f"{name}: is empty. Nothing was read from it.")


def split_passages(
    text: str, *, max_words: int = 120, fits: Callable[[str], bool] | None = None
) -> list[str]:
    r"""Consecutive passages of a text: whole paragraphs where they fit, else sentences, else words.

    Args:
        text: paragraphs are separated by blank lines.
        max_words: the most words in a passage.
        fits: whether a model reads a passage to its end; one that does not fit is split further.

    >>> split_passages("# Tea\n\nSteep it. Drink it hot.\n\nEnjoy.", max_words=4)
    ['# Tea\n\nSteep it.', 'Drink it hot.\n\nEnjoy.']
    """
    passages: list[str] = []
    room = 0
    for separator, piece in _pieces(text, max_words):
        n_words = _count_words(piece)
        if passages and n_words <= room:
            passages[-1] += separator + piece
            room -= n_words
        else:
            passages.append(piece)
            room = max_words - n_words
    passages = [passage.rstrip() for passage in passages]
    if fits is None or max_words == 1:
        return passages
    parts: list[str] = []
    for passage in passages:
        parts += [passage] if fits(passage) else split_passages(passage, max_words=max_words // 2, fits=fits)
    return parts


def _pieces(text: str, max_words: int) -> Iterator[tuple[str, str]]:
    """(the space before it, a piece of at most max_words): a paragraph, a sentence or a run of words."""
    for paragraph_gap, paragraph in _split_at(_BLANK_LINE, text.strip()):
        if _count_words(paragraph) <= max_words:
            yield paragraph_gap, paragraph
            continue
        for gap, sentence in _split_at(_SENTENCE_END, paragraph, gap=paragraph_gap):
            starts = [match.start() for match in _WORD.finditer(sentence)][::max_words]
            for start, end in zip(starts, [*starts[1:], len(sentence)], strict=True):
                run = sentence[start:end]
                piece = run.rstrip()
                yield gap, piece
                gap = run[len(piece) :]


def _split_at(pattern: re.Pattern[str], text: str, *, gap: str = "") -> Iterator[tuple[str, str]]:
    """(the separator before it, a part that is not empty); `gap` stands before the first."""
    start = 0
    for match in pattern.finditer(text):
        if match.start() > start:
            yield gap, text[start : match.start()]
            gap = match.group()
        start = match.end()
    if start < len(text):
        yield gap, text[start:]


def _count_words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))


def _located_passages(
    path: Path, fits: Callable[[str], bool] | None, labels: FolderLabels
) -> Iterator[tuple[str, Passage]]:
    """(place for errors, passage) of one file or folder."""
    if path.is_dir():
        for file in _text_files(path):
            yield from _text_passages(file, path, fits, labels)
        return
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise InputError(f"{path}: is no regular file and no folder.")
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        yield from _text_passages(path, path.parent, fits, labels)
    elif suffix in (".jsonl", ".csv"):
        records = _json_records if suffix == ".jsonl" else _csv_records
        _check_unicode(path.name, str(path))
        source = labels.source(path.parent, path.name)
        with path.open("rb") as stream:
            for lines, record in records(stream, str(path)):
                place = f"{path}:{lines[0]}"
                passage = _passage_of_record(record, place, default_id=f"{source.uri}:{lines[0]}")
                yield place, replace(passage, source=source, position={"lines": lines})
    else:
        path.stat()  # a file that is missing is the first thing to say
        raise InputError(f"{path}: this kind of file is not read. Give .jsonl, .csv, .txt, .md or a folder.")


def _text_files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise error

    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    # is_file() leaves out pipes, which would block, and broken links.
    return sorted(file for file in files if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())


def _text_passages(
    path: Path, folder: Path, fits: Callable[[str], bool] | None, labels: FolderLabels
) -> Iterator[tuple[str, Passage]]:
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: is longer than {MAX_BYTES:,} bytes. Split it, or give a .jsonl file.")
    text = _decode(data.removeprefix(b"\xef\xbb\xbf"), str(path)).replace("\r\n", "\n")
    name = path.relative_to(folder).as_posix()
    _check_unicode(name, str(path))
    source = labels.source(folder, name)
    metadata = {"path": source.uri.partition("/")[2]}
    line, end = 1, 0
    for number, passage in enumerate(split_passages(text, fits=fits), start=1):
        start = text.index(passage, end)
        first = line + text.count("\n", end, start)
        end = start + len(passage)
        line = first + passage.count("\n")
        yield (
            f"{path}#{number}",
            Passage(f"{source.uri}#{number}", passage, metadata, source, {"lines": [first, line]}),
        )


def _decoded_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its ending)."""
    for number, line in enumerate(iter(lambda: stream.readline(MAX_BYTES + 1), b""), start=1):
        if len(line) > MAX_BYTES:
            raise InputError(f"{name}:{number}: the line is longer than {MAX_BYTES:,} bytes.")
        yield number, _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, f"{name}:{number}")


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1} is 0x{data[error.start]:02x}"
        raise InputError(f"{place}: is not UTF-8 ({byte}). Save the file as UTF-8.") from None


def _json_records(stream: BinaryIO, name: str) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(first and last line, record)."""
    for number, line in _decoded_lines(stream, name):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
            raise InputError(f"{name}:{number}: {reason}.") from None
        if not isinstance(record, dict):
            raise InputError(f"{name}:{number}: a line must be one JSON object, got {type(record).__name__}.")
        if json_text(record) is None:
            raise InputError(f"{name}:{number}: holds a lone surrogate, or is nested too deeply.")
        yield [number, number], record


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_constant(digits)


def _csv_records(stream: BinaryIO, name: str) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(first and last line, record)."""
    # The module's own limit is 128 KiB; there is but one for the whole process.
    csv.field_size_limit(MAX_BYTES)
    # strict: without it an unclosed quote silently swallows the rest of the file.
    reader = csv.reader((line for _, line in _decoded_lines(stream, name)), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in reader:
            number, start = start, reader.line_num + 1
            if not any(field.strip() for field in row):
                continue
            if header is None:
                header = _checked_header(row, f"{name}:{number}")
                continue
            if len(row) != len(header):
                raise InputError(f"{name}:{number}: has {len(row)} fields, the header has {len(header)}.")
            yield [number, reader.line_num], dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{name}:{start}: is not CSV: {error}.") from None


def _checked_header(header: Sequence[str], place: str) -> list[str]:
    names = [name.strip() for name in header]
    if not set(TEXT_FIELDS) & set(names):
        raise InputError(f"{place}: the header must name 'text' or 'contents', got {', '.join(names)}.")
    if len(set(names)) < len(names):
        raise InputError(f"{place}: the header names a column twice: {', '.join(names)}.")
    return names


def _passage_of_record(record: dict[str, Any], place: str, *, default_id: str) -> Passage:
    doc_id = _doc_id(_pop_first(record, ID_FIELDS, default_id), place)
    text = _pop_first(record, TEXT_FIELDS, None)
    title = record.pop("title", None) or ""
    if not isinstance(text, str) or not isinstance(title, str):
        wrong = "title" if isinstance(text, str) else "text"
        raise InputError(f"{place}: {wrong!r} must be a string.")
    return Passage(doc_id, f"{title} {text}".strip(), _metadata(record, place))


def _metadata(record: dict[str, Any], place: str) -> dict[str, Any] | None:
    """Every key that is left, with those of `metadata` where it is an object."""
    inner = record.pop("metadata", None)
    if isinstance(inner, str) and inner:
        # A CSV column of that name: an object as JSON, or a text of its own.
        try:
            parsed = json.loads(inner)
        except (ValueError, RecursionError):
            parsed = None
        inner = parsed if isinstance(parsed, dict) and json_text(parsed) else {"metadata": inner}
    elif inner and not isinstance(inner, dict):
        raise InputError(f"{place}: 'metadata' must be an object, got {type(inner).__name__}.")
    twice = sorted(set(record) & set(inner or {}))
    if twice:
        raise InputError(f"{place}: {twice[0]!r} is given twice, beside 'metadata' and in it.")
    metadata = {**record, **(inner or {})}
    metadata_text(metadata, f"{place}: metadata")
    return metadata or None


def _pop_first(record: dict[str, Any], names: Sequence[str], default: Any) -> Any:
    for name in names:
        if name in record:
            return record.pop(name)
    return default


def _doc_id(value: Any, place: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise InputError(f"{place}: the id must be a string or an integer, got {reprlib.repr(value)}.")
    return value


def _check_unicode(text: str, place: str) -> None:
    r"""JSON's "\ud800" and undecodable file names give strings that have no UTF-8 form."""
    if not is_text(text):
        raise InputError(f"{place}: is not valid text: it holds a lone surrogate.")
