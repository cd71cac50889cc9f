"""Ids, texts and metadata of another engine's index, from the files that the engine keeps of them."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_colbert.checks import is_text
from mlx_colbert.convert.indexes.files import (
    Folder,
    index_errors,
    open_database,
    read_json,
    stored_columns,
)
from mlx_colbert.convert.pickle_machine import PickleMachine
from mlx_colbert.documents.decoding import MAX_BYTES
from mlx_colbert.documents.files import read_passages
from mlx_colbert.documents.passage import Passage
from mlx_colbert.errors import IndexDamagedError, IndexStoreError, InputError, UnsafeCheckpointError
from mlx_colbert.types import Array

__all__ = ["ID_MAPS", "Documents", "add_collection", "read_documents"]

# Columns of metadata.db that hold the text, by the names that people give them.
_TEXT_COLUMNS = ("text", "contents", "content", "document")
ID_MAPS = ("documents_ids_to_plaid_ids.pkl", "documents_ids_to_plaid_ids.sqlite")


@dataclass
class Documents:
    """What is known of all documents, dead ones included; an id of None marks a dead one."""

    ids: list[str | None]
    texts: list[str | None]
    metadata: list[dict[str, Any] | None]


def read_documents(
    outer: Folder, folder: Folder, lengths: Array
) -> tuple[Documents, Literal["pylate", "ragatouille"] | None]:
    """The documents, and which library named them; None if they have the engine's numbers.

    Args:
        outer: the folder of the whole index.
        folder: that of its PLAID files.
        lengths: (N,) tokens of each document, dead ones included.
    """
    numbers = _pylate_numbers(outer, len(lengths))
    if numbers is not None:
        return _pylate_documents(outer.path, numbers, len(lengths)), "pylate"
    if folder.find("pid_docid_map.json"):
        return _ragatouille_documents(folder, lengths), "ragatouille"
    return _numbered_documents(folder, len(lengths)), None


def _numbered_documents(folder: Folder, n: int) -> Documents:
    """The engine's own numbers, with what fast-plaid and next-plaid keep in metadata.db."""
    documents = Documents([str(number) for number in range(n)], [None] * n, [None] * n)
    path = folder.find("metadata.db")
    if path is None:
        return documents
    rows = _metadata_rows(path, n)
    if sorted(rows) != list(range(n)):
        reason = f"has {len(rows)} rows for {n} documents, so who is who is not known."
        raise IndexDamagedError(path, f"{reason} Move it away to read the index without metadata.")
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
        for values in connection.execute(f"SELECT {selected} FROM {source} LIMIT {n + 1}"):
            row = {name: value for (_, name), value in zip(columns, values, strict=True) if value is not None}
            row.pop("_content_id_", None)
            number = row.pop("_subset_", None)
            if type(number) is not int or number in rows:
                raise IndexDamagedError(
                    path, f"a row has the number {number!r}, no count or one used before."
                )
            if binary := [name for name, value in row.items() if isinstance(value, bytes)]:
                raise IndexStoreError(path, f"column {binary[0]!r} holds bytes, which metadata cannot.")
            rows[number] = row
    return rows


def _pylate_numbers(outer: Folder, n: int) -> dict[str, int] | None:
    """PyLate's id -> number of the document in the index; None where the index is not PyLate's."""
    if path := outer.find(ID_MAPS[0]):
        data = path.read_bytes()
        # An entry takes five instructions; the pickle of an honest map is all the file has.
        machine = _IdMachine(path, max_instructions=1000 + 16 * n, max_bytes=len(data))
        with index_errors(path):
            numbers = machine.run(BytesIO(data))
        if not isinstance(numbers, dict):
            raise IndexDamagedError(path, f"holds a {type(numbers).__name__}, not a dict of ids.")
        return numbers
    if path := outer.find(ID_MAPS[1]):  # PyLate 1.3 and before: a table of pickles, by sqlitedict
        with open_database(path) as connection:
            if not {"key", "value"} <= set(stored_columns(path, connection, "unnamed")):
                raise IndexDamagedError(path, "is no table of ids.")
            rows = connection.execute(f'SELECT "key", "value" FROM "unnamed" LIMIT {n + 1}').fetchall()
        with index_errors(path):
            return {_checked_id(key): _unpickled_number(path, value) for key, value in rows}
    return None


def _unpickled_number(path: Path, value: object) -> Any:
    if not isinstance(value, bytes):
        raise ValueError("a number is not pickled")
    return _IdMachine(path).run(BytesIO(value))


class _IdMachine(PickleMachine):
    """Interprets the pickle of a number, or of a dict from ids to numbers; it may name nothing at all."""

    def update(self, items: list[Any]) -> None:
        """Sets ids and numbers in the dict on top."""
        entries = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # As text: a crowd of chosen integers can make a dict slow, a crowd of strings cannot.
            doc_id = _checked_id(str(key) if type(key) is int else key)
            if doc_id in entries:
                raise ValueError(f"the id {ascii(doc_id)[:100]} is there twice")
            entries[doc_id] = value

    def name(self, asked: str) -> None:
        """Refuses every name."""
        raise self._refused(f"asks for {ascii(asked)[1:101]}")

    def _refused(self, problem: str) -> UnsafeCheckpointError:
        return UnsafeCheckpointError(
            self.path, f"{problem}, where only ids and numbers may be. Nothing was run."
        )


def _checked_id(key: object) -> str:
    if not isinstance(key, str) or not key or not is_text(key):
        raise ValueError(f"an id is no text: {reprlib.repr(key)}")
    return key


def _pylate_documents(path: Path, numbers: dict[str, int], n: int) -> Documents:
    """A document that no id leads to is dead: removed, or replaced by adding its id again."""
    ids: list[str | None] = [None] * n
    for doc_id, number in numbers.items():
        if type(number) is not int or not 0 <= number < n or ids[number] is not None:
            reason = (
                f"the id {doc_id[:100]!r} leads to document {number!r:.40} of {n}, or is not alone there."
            )
            raise IndexDamagedError(path, f"{reason} Its id map is of another index.")
        ids[number] = doc_id
    return Documents(ids, [None] * n, [None] * n)


def _ragatouille_documents(folder: Folder, lengths: Array) -> Documents:
    """Ids, texts and metadata of the files that RAGatouille adds.

    A deletion shortens its collection and leaves gaps in its map, a later rebuild closes those of the index
    alone. The order is the same in all three, so the n-th living passage is the n-th of each.
    """
    path = folder.need("pid_docid_map.json")
    names = read_json(path, dict)
    texts = read_json(folder.need("collection.json"), list)
    details_path = folder.find("docid_metadata_map.json")
    details = read_json(details_path, dict) if details_path else {}
    places = np.flatnonzero(lengths > 0).tolist()
    if len(texts) == len(lengths):
        texts = [texts[place] for place in places]
    if not len(places) == len(names) == len(texts):
        counts = f"{len(places)} passages in the index, {len(names)} ids, {len(texts)} texts"
        raise IndexDamagedError(folder.path, f"{counts}: who is who is not known.")
    if not all(re.fullmatch(r"[0-9]{1,15}", number) for number in names):
        raise IndexDamagedError(path, "has a key that is no number of a passage.")
    docids = [names[number] for number in sorted(names, key=int)]
    if not all(is_text(docid) or type(docid) is int for docid in docids) or not all(map(is_text, texts)):
        raise IndexDamagedError(path, "an id, or a text in collection.json, is no text.")
    documents = Documents([None] * len(lengths), [None] * len(lengths), [None] * len(lengths))
    docids = list(map(str, docids))
    for place, docid, doc_id, text in zip(places, docids, _passage_ids(docids), texts, strict=True):
        documents.ids[place], documents.texts[place] = doc_id, text
        if isinstance(detail := details.get(docid), dict):
            documents.metadata[place] = detail or None
    return documents


def _passage_ids(docids: list[str]) -> list[str]:
    """Different ids for passages, whose documents may have several: then "#1", "#2" … follow.

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
    # A document is named like another's passage; with a number on every id that cannot be.
    return [f"{docid}#{n}" for docid, n in zip(docids, numbers, strict=True)]


def add_collection(path: Path, documents: Documents, live: Array, *, alone: bool) -> None:
    """Puts in the texts of a file; `alone` if it may have no other documents than the index."""
    places = {doc_id: place for place, doc_id in enumerate(documents.ids) if doc_id is not None}
    seen = np.zeros(len(live), bool)
    passages = _tsv_passages(path) if path.suffix.lower() == ".tsv" else read_passages(path)
    for passage in passages:
        place = places.get(passage.doc_id)
        if place is None and alone:
            reason = f"has {passage.doc_id!r}, but the index is of passages 0 to {len(live) - 1}."
            raise InputError(f"{path}: {reason} Give the collection that was indexed.")
        if place is None:
            continue
        if seen[place]:
            raise InputError(f"{path}: has {passage.doc_id!r} twice.")
        seen[place] = True
        documents.texts[place] = passage.text
        documents.metadata[place] = documents.metadata[place] or (
            dict(passage.metadata) if passage.metadata else None
        )
    missing = np.flatnonzero(live & ~seen)
    if missing.size:
        first = documents.ids[missing[0]]
        raise InputError(f"{path}: lacks {missing.size} documents of the index, {first!r} the first of them.")


def _tsv_passages(path: Path) -> Iterator[Passage]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_BYTES + 1), b""), start=1):
            if len(line) > MAX_BYTES:
                raise InputError(f"{path}:{number}: the line is longer than {MAX_BYTES:,} bytes.")
            try:
                doc_id, *texts = line.decode("utf-8").strip("\n\r ").split("\t")
            except UnicodeDecodeError:
                raise InputError(f"{path}:{number}: is not UTF-8. Save the file as UTF-8.") from None
            if not texts:
                raise InputError(f"{path}:{number}: is not an id, a tab and a text.")
            # As colbert-ai's load_collection joins a title.
            yield Passage(doc_id, f"{texts[1]} | {texts[0]}" if len(texts) > 1 else texts[0])
