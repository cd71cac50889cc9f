"""Rows: CSV, TSV and JSON Lines.

If the rows have a text, each row is a text of its own, with its other columns as metadata. Otherwise rows are
lines of a table, and neighbours are joined.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import PurePath

from mlx_colbert.documents.blocks import Block, Parts
from mlx_colbert.documents.decoding import MAX_BYTES, decode
from mlx_colbert.documents.records import (
    ID_FIELDS,
    TEXT_FIELDS,
    csv_records,
    json_records,
    passage_of_record,
    tsv_records,
)
from mlx_colbert.errors import InputError, said
from mlx_colbert.types import Position

__all__ = ["parts"]

_RECORDS = {".jsonl": json_records, ".csv": csv_records, ".tsv": tsv_records}


def parts(data: bytes, name: str) -> Parts:
    r"""The rows of a file. The position is the lines and the number of the row.

    Raises:
        InputError: if a row cannot be read.

    >>> [block.text for block in parts(b"city,tea\nBath,hot\nUlm,cold\n", "a.csv")]
    ['Bath,hot', 'Ulm,cold']
    """
    suffix = PurePath(name).suffix.lower()
    text = decode(data, name)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if _has_texts(first, suffix):
        yield from _texts(data, name, suffix)
    elif suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            yield Block(line, {"lines": [number, number]}, "rows", verbatim=True)
    else:
        yield from _table(text.split("\n"), "\t" if suffix == ".tsv" else _delimiter(first), name)


def _has_texts(first: str, suffix: str) -> bool:
    """Whether the first line says that each row has a text."""
    if suffix == ".jsonl":
        try:
            record = json.loads(first)
        except (ValueError, RecursionError):
            return True  # The reader of records says what is wrong.
        return isinstance(record, dict) and any(field in record for field in TEXT_FIELDS)
    try:
        names = next(csv.reader([first], delimiter="\t" if suffix == ".tsv" else ","), [])
    except csv.Error:
        return False  # The reader of tables says what is wrong.
    return not {name.strip() for name in names}.isdisjoint(TEXT_FIELDS)


def _texts(data: bytes, name: str, suffix: str) -> Parts:
    """Each row as a text of its own. Its id is metadata, because a folder may have it twice."""
    for number, (lines, record) in enumerate(_RECORDS[suffix](io.BytesIO(data), name), start=1):
        own_id = next((record[field] for field in ID_FIELDS if field in record), None)
        passage = passage_of_record(record, f"{name}:{lines[0]}", default_id="none")
        # A new object for each row: rows are never joined.
        metadata = dict(passage.metadata or {})
        if own_id is not None:
            metadata["id"] = own_id
        yield Block(passage.text, {"lines": lines, "row": number}, metadata=metadata)


def _table(lines: list[str], delimiter: str, name: str) -> Parts:
    """The rows as lines. The first row is repeated in each passage."""
    csv.field_size_limit(MAX_BYTES)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
    header, start, row = "", 0, 0
    try:
        for cells in reader:
            text = "\n".join(lines[start : reader.line_num]).rstrip("\n")
            position: Position = {"lines": [start + 1, reader.line_num]}
            start = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header, after = text, start
                continue
            row += 1
            yield Block(
                text,
                {**position, "row": row},
                "rows",
                verbatim=True,
                head=header,
                opens=position["lines"][0] == after + 1,
            )
    except csv.Error as error:
        raise InputError(f"{name}:{start + 1}: is not CSV: {said(error)}.") from None
    if header and not row:
        yield Block(header, {"lines": [1, start]}, "rows", verbatim=header.count("\n") == start - 1)


def _delimiter(line: str) -> str:
    """What separates the cells of a table: the sign that is most frequent in its first line."""
    return max(",;\t|", key=line.count)
