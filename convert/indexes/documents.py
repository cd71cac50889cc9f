"""Reads ids, texts and metadata of another engine's index from the files of that engine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_colbert.checks import is_text
from mlx_colbert.convert.indexes.files import (
    Folder,
    bounded_rows,
    index_errors,
    open_database,
    read_index_json,
    stored_columns,
)
from mlx_colbert.convert.pickle_machine import PickleMachine, dotted
from mlx_colbert.counts import counted
from mlx_colbert.documents.files import read_passages
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.records import TSV_HEADERS, tsv_rows
from mlx_colbert.errors import IndexDamagedError, IndexStoreError, InputError, UnsafeCheckpointError
from mlx_colbert.types import Array
from mlx_colbert.untrusted import shown

__all__ = ["ID_MAPS", "Documents", "add_collection", "read_documents"]

# Usual names of the column of metadata.db that has the text.
_TEXT_COLUMNS = ("text", "contents", "content", "document")
ID_MAPS = ("documents_ids_to_plaid_ids.pkl", "documents_ids_to_plaid_ids.sqlite")


@dataclass
class Documents:
    """All documents of an index. A document that was deleted has the id None.

    Attributes:
        ids: N ids.
        texts: N texts.
        metadata: N JSON objects.
        sources: for RAGatouille, the id of the whole document that each of these is a passage of. Empty for
            the other engines, and if a document was deleted.
    """

    ids: list[str | None]
    texts: list[str | None]
    metadata: list[dict[str, Any] | None]
    sources: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.sources = [""] * len(self.ids)


def read_documents(
    outer: Folder, folder: Folder, lengths: Array
) -> tuple[Documents, Literal["pylate", "ragatouille"] | None]:
    """The documents, and the library that gave them their ids. None if the ids are the engine's numbers.

    Args:
        outer: the folder of the whole index.
        folder: the folder of its PLAID files.
        lengths: (N,) tokens of each document, deleted ones included.
    """
    numbers = _pylate_numbers(outer, len(lengths))
    if numbers is not None:
        return _pylate_documents(outer.path, numbers, len(lengths)), "pylate"
    if folder.find("pid_docid_map.json"):
        return _ragatouille_documents(folder, lengths), "ragatouille"
    return _numbered_documents(folder, len(lengths)), None


def _numbered_documents(folder: Folder, n: int) -> Documents:
    """Documents with the engine's numbers as ids, and with the metadata that metadata.db has."""
    documents = Documents([str(number) for number in range(n)], [None] * n, [None] * n)
    path = folder.find("metadata.db")
    if path is None:
        return documents
    rows = _metadata_rows(path, n)
    if sorted(rows) != list(range(n)):
        reason = (
            f"has {counted(len(rows), 'row')} for {counted(n, 'document')}, so it is unclear which text "
            "belongs to which document."
        )
        raise IndexDamagedError(path, f"{reason} To read the index without metadata, move this file away.")
    column = next((name for name in _TEXT_COLUMNS if any(name in row for row in rows.values())), None)
    if column and any(not isinstance(row.get(column, ""), str) for row in rows.values()):
        column = None
    for number, row in rows.items():
        documents.texts[number] = row.pop(column, None) if column else None
        documents.metadata[number] = row or None
    return documents


def _metadata_rows(path: Path, n: int) -> dict[int, dict[str, Any]]:
    """Number of a document -> its columns that are not NULL."""
    rows: dict[int, dict[str, Any]] = {}
    with open_database(path) as connection:
        tables = {"METADATA": stored_columns(path, connection, "METADATA")}
        source = '"METADATA"'
        if "_content_id_" in tables["METADATA"]:  # next-plaid keeps large columns in a table of their own
            tables["METADATA_CONTENT"] = stored_columns(path, connection, "METADATA_CONTENT")
            source += ' LEFT JOIN "METADATA_CONTENT" USING ("_content_id_")'
        columns = [(table, name) for table, names in tables.items() for name in names]
        selected = ", ".join(f'"{table}"."{name}"' for table, name in columns)
        for values in bounded_rows(path, connection, f"SELECT {selected} FROM {source} LIMIT {n + 1}"):
            row = {name: value for (_, name), value in zip(columns, values, strict=True) if value is not None}
            row.pop("_content_id_", None)
            number = row.pop("_subset_", None)
            if type(number) is not int or number in rows:
                raise IndexDamagedError(
                    path, f"a row has the number {shown(number)}, which is not a count, or is used twice."
                )
            if binary := [name for name, value in row.items() if isinstance(value, bytes)]:
                raise IndexStoreError(
                    path, f"column {shown(binary[0])} contains bytes. Metadata cannot contain bytes."
                )
            rows[number] = row
    return rows


def _pylate_numbers(outer: Folder, n: int) -> dict[str, int] | None:
    """PyLate's id -> number of the document in the index. None if the index is not PyLate's."""
    if path := outer.find(ID_MAPS[0]):
        data = path.read_bytes()
        # An entry takes five instructions; the pickle of an honest map is all the file has.
        machine = _IdMachine(path, max_instructions=1000 + 16 * n, max_bytes=len(data))
        with index_errors(path):
            numbers = machine.run(BytesIO(data))
        if not isinstance(numbers, dict):
            raise IndexDamagedError(path, f"contains a {type(numbers).__name__}. A dict of ids is needed.")
        return numbers
    if path := outer.find(ID_MAPS[1]):  # PyLate 1.3 and before: a table of pickles, by sqlitedict
        with open_database(path) as connection:
            if not {"key", "value"} <= set(stored_columns(path, connection, "unnamed")):
                raise IndexDamagedError(path, "has no table of ids.")
            query = f'SELECT "key", "value" FROM "unnamed" LIMIT {n + 1}'
            rows = list(bounded_rows(path, connection, query))
        with index_errors(path):
            return {_checked_id(key): _unpickled_number(path, value) for key, value in rows}
    return None


def _unpickled_number(path: Path, value: object) -> Any:
    if not isinstance(value, bytes):
        raise ValueError("a number is not pickled")
    return _IdMachine(path).run(BytesIO(value))


class _IdMachine(PickleMachine):
    """Interpreter of the pickle of a number, or of a dict from ids to numbers. It accepts no names."""

    def update(self, items: list[Any]) -> None:
        """Set ids and numbers in the dict on top."""
        entries = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # As text: many chosen integers can make a dict slow, many strings cannot.
            doc_id = _checked_id(str(key) if type(key) is int else key)
            if doc_id in entries:
                raise ValueError(f"the id {shown(doc_id)} is given twice")
            entries[doc_id] = value

    def name(self, asked: str) -> None:
        """Refuse every name."""
        raise self._refused(f"asks for {dotted(asked)}")

    def _refused(self, problem: str) -> UnsafeCheckpointError:
        return UnsafeCheckpointError(
            self.path, f"{problem}, but only ids and numbers are allowed here. Nothing was run."
        )


def _checked_id(key: object) -> str:
    if not isinstance(key, str) or not key or not is_text(key):
        raise ValueError(f"an id is not text: {shown(key)}")
    return key


def _pylate_documents(path: Path, numbers: dict[str, int], n: int) -> Documents:
    """The documents by PyLate's ids. A document without an id was deleted or replaced."""
    ids: list[str | None] = [None] * n
    for doc_id, number in numbers.items():
        if type(number) is not int or not 0 <= number < n or ids[number] is not None:
            reason = f"the id {shown(doc_id)} names document {shown(number)} of {n}, or one that has an id."
            raise IndexDamagedError(path, f"{reason} The id map belongs to another index.")
        ids[number] = doc_id
    return Documents(ids, [None] * n, [None] * n)


def _ragatouille_documents(folder: Folder, lengths: Array) -> Documents:
    """Ids, texts and metadata of the files that RAGatouille adds.

    A deletion shortens its collection and leaves gaps in its map. A later rebuild closes the gaps of the
    index only. The order is the same in all three: passage n, counted without deleted passages, is the n-th
    in each.
    """
    path = folder.need("pid_docid_map.json")
    names = read_index_json(path, dict)
    texts = read_index_json(folder.need("collection.json"), list)
    details_path = folder.find("docid_metadata_map.json")
    details = read_index_json(details_path, dict) if details_path else {}
    places = np.flatnonzero(lengths > 0).tolist()
    if len(texts) == len(lengths):
        texts = [texts[place] for place in places]
    if not len(places) == len(names) == len(texts):
        counts = (
            f"{counted(len(places), 'passage')} in the index, {counted(len(names), 'id')}, "
            f"{counted(len(texts), 'text')}"
        )
        raise IndexDamagedError(folder.path, f"{counts}. It is unclear which text belongs to which document.")
    if not all(re.fullmatch(r"[0-9]{1,15}", number) for number in names):
        raise IndexDamagedError(path, "has a key that is not the number of a passage.")
    docids = [names[number] for number in sorted(names, key=int)]
    if not all(is_text(docid) or type(docid) is int for docid in docids) or not all(map(is_text, texts)):
        raise IndexDamagedError(path, "an id, or a text in collection.json, is not text.")
    documents = Documents([None] * len(lengths), [None] * len(lengths), [None] * len(lengths))
    docids = list(map(str, docids))
    for place, docid, doc_id, text in zip(places, docids, _passage_ids(docids), texts, strict=True):
        documents.ids[place], documents.texts[place] = doc_id, text
        documents.sources[place] = docid
        if isinstance(detail := details.get(docid), dict):
            documents.metadata[place] = detail or None
    return documents


def _passage_ids(docids: list[str]) -> list[str]:
    """An id for each passage. Where a document has several, "#1", "#2" … follow its id.

    >>> _passage_ids(["tea", "tea", "milk"])
    ['tea#1', 'tea#2', 'milk']
    """
    totals, counts = Counter(docids), Counter[str]()
    numbers = []
    for docid in docids:
        counts[docid] += 1
        numbers.append(counts[docid])
    ids = [docid if totals[docid] == 1 else f"{docid}#{n}" for docid, n in zip(docids, numbers, strict=True)]
    if len(set(ids)) == len(ids):
        return ids
    # An id of a document is equal to an id of another's passage. With a number on every id, all differ.
    return [f"{docid}#{n}" for docid, n in zip(docids, numbers, strict=True)]


def add_collection(path: Path, documents: Documents, live: Array, *, alone: bool) -> None:
    """Add the texts of a file to the documents of an index.

    Args:
        path: a file of rows.
        documents: the documents. They get the texts, and the metadata if they have none.
        live: (N,) bool, the documents that are not deleted. The file must have each of them.
        alone: whether the file must have no other documents than the index.

    Raises:
        InputError: if a document is missing, is there twice, or is not one of the index.
    """
    places = {doc_id: place for place, doc_id in enumerate(documents.ids) if doc_id is not None}
    seen = np.zeros(len(live), bool)
    is_tsv = path.suffix.lower() == ".tsv"
    for passage in _tsv_passages(path) if is_tsv else read_passages(path, keep_blank=True):
        place = places.get(passage.doc_id)
        if place is None and alone:
            reason = f"has {shown(passage.doc_id)}, but the index has the passages 0 to {len(live) - 1}."
            raise InputError(f"{path}: {reason} Give the collection that the index was made from.")
        if place is None:
            continue
        if seen[place]:
            raise InputError(f"{path}: has {shown(passage.doc_id)} twice.")
        seen[place] = True
        documents.texts[place] = passage.text
        documents.metadata[place] = documents.metadata[place] or (
            dict(passage.metadata) if passage.metadata else None
        )
    missing = np.flatnonzero(live & ~seen)
    if missing.size:
        first = documents.ids[missing[0]]
        raise InputError(
            f"{path}: lacks {counted(missing.size, 'document')} of the index. "
            f"The first of them is {shown(first)}."
        )


def _tsv_passages(path: Path) -> Iterator[Passage]:
    """The passages of a collection, as colbert-ai's load_collection reads them.

    It reads a header as passage 0, because the ids of such files begin at 1. A header before the id 0 is not
    a passage.
    """
    header: Passage | None = None
    with path.open("rb") as file:
        for number, (doc_id, text, *rest) in tsv_rows(file, str(path)):
            # As it joins a title, an empty one too.
            passage = Passage(doc_id, f"{rest[0]} | {text}" if rest else text)
            if number == 1 and doc_id in TSV_HEADERS:
                header = Passage("0", passage.text)
                continue
            if number == 2 and header is not None and doc_id != "0":
                yield header
            yield passage
