"""Reads JSON Lines, CSV and TSV files. Each row is one passage: the author of the file chose the rows."""

from __future__ import annotations

import csv
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO, NoReturn

from mlx_colbert.documents.decoding import MAX_BYTES, decoded_lines
from mlx_colbert.documents.passage import Passage
from mlx_colbert.errors import InputError, said
from mlx_colbert.json_values import JsonObject, json_text

__all__ = ["TSV_HEADERS", "csv_records", "json_records", "passage_of_record", "tsv_records", "tsv_rows"]

ID_FIELDS = ("doc_id", "id", "_id")
TEXT_FIELDS = ("text", "contents")
# Names of the id in the header of a .tsv file.
TSV_HEADERS = ("id", "pid")
# All other fields are metadata.
_OWN_FIELDS = (*ID_FIELDS, *TEXT_FIELDS, "title", "metadata")
_MOST_DIGITS = 4300
# A number as in JSON. 007 and 1_000 are texts.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def json_records(stream: BinaryIO, name: str) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(first and last line, record) of each line of a JSON Lines file that is not blank.

    Raises:
        InputError: if a line is not a JSON object.
    """
    for number, line in decoded_lines(stream, name, may_be_latin1=False):
        if not line.strip():
            continue
        try:
            record = json.loads(
                line.rstrip(), parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer
            )
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}:{number}: {_json_problem(error)}.") from None
        if not isinstance(record, dict):
            raise InputError(f"{name}:{number}: a line must be one JSON object, got {type(record).__name__}.")
        if json_text(record) is None:
            raise InputError(f"{name}:{number}: contains a lone surrogate, or is nested too deeply.")
        yield [number, number], record


def _json_problem(error: ValueError | RecursionError) -> str:
    """What is wrong with a line. Its place is counted in that line: the line's number is told before it."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg}, at character {error.pos + 1}"
    return f"is not JSON: {said(error)}"


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_constant(digits)


def _integer(digits: str) -> int:
    # Python has a limit of its own, but its error is about Python.
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits, and {_MOST_DIGITS:,} are allowed")
    return int(digits)


def csv_records(stream: BinaryIO, name: str) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(first and last line, record) of each row of a CSV file. The first row names the columns.

    If all cells of a column are numbers as in JSON, its values are numbers. An empty cell gives no metadata.
    An empty column without a name is left out.

    Raises:
        InputError: if a row cannot be read.
    """
    return _typed(lambda: _csv_cells(stream, name))


def tsv_records(stream: BinaryIO, name: str) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(first and last line, record) of each line of a file with tabs between its fields.

    The first line may name the fields. The file is then read like CSV. Without names, the fields are id, text
    and title, as in the collections of colbert-ai.

    Raises:
        InputError: if a line cannot be read.
    """
    return _typed(lambda: _tsv_cells(stream, name))


def tsv_rows(stream: BinaryIO, name: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line that is not blank: an id, a text and more, with tabs between.

    Raises:
        InputError: if a line is not text, or has only one field.
    """
    for number, line in decoded_lines(stream, name):
        if not line.strip():
            continue
        fields = line.strip("\n\r ").split("\t")
        if len(fields) < 2:
            raise InputError(f"{name}:{number}: must have an id, a tab and a text.")
        yield number, fields


_Rows = Iterator[tuple[list[int], dict[str, str]]]


def _typed(read: Callable[[], _Rows]) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The rows of `read`, with numbers in the columns of numbers. `read` may be called twice."""
    rows = read()
    first = next(rows, None)
    if first is None:
        return
    numeric = first[1].keys() - {"", *_OWN_FIELDS}
    used: set[str] = set()
    if numeric:
        for _, cells in chain([first], rows):
            filled = {column for column in numeric if cells.get(column, "").strip()}
            used |= filled
            numeric -= {column for column in filled if _number(cells[column]) is None}
        rows = read()
    else:
        rows = chain([first], rows)
    numeric &= used
    for lines, cells in rows:
        record: dict[str, Any] = {}
        for column, cell in cells.items():
            if column in _OWN_FIELDS:
                record[column] = cell
            elif cell.strip():
                record[column] = _number(cell) if column in numeric else cell
        yield lines, record


def _number(cell: str) -> int | float | None:
    """The number in a cell. None for other texts, such as 007, and if filters cannot compare the number."""
    digits = cell.strip()
    if not _NUMBER.fullmatch(digits) or len(digits) > 30:
        return None
    if digits.lstrip("-").isdigit():
        number = int(digits)
        return number if -(2**63) <= number < 2**63 else None
    return float(digits) if math.isfinite(float(digits)) else None


def _csv_cells(stream: BinaryIO, name: str) -> _Rows:
    """(first and last line, cells by column) of each row that is not blank, from the first."""
    stream.seek(0)
    # The limit of the csv module is 128 KiB. It is one setting for the whole process.
    csv.field_size_limit(MAX_BYTES)
    # strict=True: otherwise the rest of the file after a quote that does not end is silently one cell.
    reader = csv.reader((line for _, line in decoded_lines(stream, name)), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in reader:
            number, start = start, reader.line_num + 1
            if not any(field.strip() for field in row):
                continue
            if header is None:
                header = _checked_header(row, f"{name}:{number}")
            elif len(row) != len(header):
                raise InputError(f"{name}:{number}: has {len(row)} fields, the header has {len(header)}.")
            else:
                yield [number, reader.line_num], _cells(header, row, f"{name}:{number}")
    except csv.Error as error:
        raise InputError(f"{name}:{start}: is not CSV: {said(error)}.") from None


def _tsv_cells(stream: BinaryIO, name: str) -> _Rows:
    """(first and last line, fields by name) of each line, from the first."""
    stream.seek(0)
    columns = ["doc_id", "text", "title"]
    n_fields = 1 << 20  # like colbert-ai, which ignores fields after the title
    for number, fields in tsv_rows(stream, name):
        place = f"{name}:{number}"
        if number == 1 and (fields[0] in TSV_HEADERS or set(TEXT_FIELDS) & set(fields)):
            columns = ["doc_id" if field == "pid" else field for field in _checked_header(fields, place)]
            n_fields = len(columns)
            continue
        if len(fields) > n_fields:
            raise InputError(f"{place}: has {len(fields)} fields, the header has {n_fields}.")
        yield [number, number], _cells(columns, fields, place)


def _cells(columns: Sequence[str], row: Sequence[str], place: str) -> dict[str, str]:
    """The cells of a row by column. Columns without a name are left out; their cells must be empty."""
    pairs = list(zip(columns, row, strict=False))
    for column, cell in pairs:
        if not column and cell.strip():
            raise InputError(f"{place}: {reprlib.repr(cell)} is in a column that the header does not name.")
    return {column: cell for column, cell in pairs if column}


def _checked_header(header: Sequence[str], place: str) -> list[str]:
    names = [name.strip() for name in header]
    named = [name for name in names if name]
    if not set(TEXT_FIELDS) & set(named):
        raise InputError(f"{place}: the header must name 'text' or 'contents', got {', '.join(named)}.")
    if len(set(named)) < len(named):
        raise InputError(f"{place}: the header names a column twice: {', '.join(named)}.")
    return names


def passage_of_record(record: dict[str, Any], place: str, *, default_id: str) -> Passage:
    """The passage of a record.

    Args:
        record: the record. This removes its keys.
        place: the name of the record in an error message.
        default_id: the id of a record without one.

    Raises:
        InputError: if its id, text, title or metadata cannot be used.
    """
    doc_id = _doc_id(_pop_first(record, ID_FIELDS, default_id), place)
    text = _pop_first(record, TEXT_FIELDS, None)
    title = record.pop("title", None) or ""
    if not isinstance(text, str) or not isinstance(title, str):
        wrong = "title" if isinstance(text, str) else "text"
        raise InputError(f"{place}: {wrong!r} must be a string.")
    return Passage(doc_id, f"{title} {text}".strip(), _metadata(record, place))


def _metadata(record: dict[str, Any], place: str) -> JsonObject | None:
    """All keys that are left in a record, and the keys of its `metadata` if that is an object."""
    inner = record.pop("metadata", None)
    if isinstance(inner, str) and inner:
        # A CSV column with the name "metadata": a JSON object, or any other text.
        try:
            parsed = json.loads(inner)
        except (ValueError, RecursionError):
            parsed = None
        inner = parsed if isinstance(parsed, dict) and json_text(parsed) else {"metadata": inner}
    elif inner and not isinstance(inner, dict):
        raise InputError(f"{place}: 'metadata' must be an object, got {type(inner).__name__}.")
    twice = sorted(set(record) & set(inner or {}))
    if twice:
        raise InputError(f"{place}: {twice[0]!r} is given twice: in 'metadata' and outside it. Remove one.")
    metadata = {**record, **(inner or {})}
    return JsonObject(metadata, f"{place}: metadata") if metadata else None


def _pop_first(record: dict[str, Any], names: Sequence[str], default: Any) -> Any:
    for name in names:
        if name in record:
            return record.pop(name)
    return default


def _doc_id(value: Any, place: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: the id must be a string or an integer, got {reprlib.repr(value)}.")
    return value
