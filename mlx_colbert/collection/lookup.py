"""Finds a passage by its id, by the short form of it, or by a line of its file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit, located
from mlx_colbert.errors import CollectionNotFoundError, InputError
from mlx_colbert.index import StoredPassage
from mlx_colbert.places import expanded
from mlx_colbert.types import Hit

__all__ = ["PlaceInFile", "find_file", "find_passage", "passages_of_file"]

_SHORT_ID = re.compile(r"#?([0-9a-f]{8})")
_PLACE = re.compile(r"(.+?)(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?", re.DOTALL)
# The most candidates that an error message names.
_MAX_CANDIDATES = 8


@dataclass(frozen=True)
class PlaceInFile:
    """A file, and lines in it.

    Attributes:
        path: a path of the disk, a name in the index, or the end of one.
        line: the first line, from 1. None: it is not given.
        n_lines: number of lines. None: it is not given.
    """

    path: str
    line: int | None = None
    n_lines: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that a text such as `notes/tea.md:12:5` names.

        Raises:
            InputError: if a number is 0, or there is no path.

        >>> PlaceInFile.parse("notes/tea.md:12:5")
        PlaceInFile(path='notes/tea.md', line=12, n_lines=5)
        """
        match = _PLACE.fullmatch(text)
        if match is None or any(number and not int(number) for number in match.groups()[1:]):
            raise InputError(f"{text!r:.200}: give PATH, PATH:LINE or PATH:LINE:COUNT. Lines count from 1.")
        numbers = (None if group is None else int(group) for group in match.groups()[1:])
        return cls(match[1], *numbers)


def find_passage(collections: Sequence[Collection], reference: str) -> tuple[Collection, CollectionHit]:
    """The passage that a reference names, and its collection.

    Args:
        collections: where to look.
        reference: an id (`notes/tea.md#1a2b3c4d`), its short form (`#1a2b3c4d`), or a line of a file
            (`notes/tea.md:12`).

    Raises:
        InputError: if there is no such passage, or more than one.
        CollectionNotFoundError: if none of the collections has an index.
    """
    usable = _with_index(collections)
    found = [(item, reference) for item in usable if reference in item.index]
    if not found and (short := _SHORT_ID.fullmatch(reference)):
        end = f"#{short[1]}"
        found = [(item, doc_id) for item in usable for doc_id in item.index if doc_id.endswith(end)]
    if not found:
        place = PlaceInFile.parse(reference)
        if place.line is not None:
            collection, uri = find_file(usable, place)
            found = [(collection, _at_line(collection, uri, place.line))]
    if not found:
        raise InputError(f"{reference!r:.200}: there is no such passage. Search prints the ids of passages.")
    if len(found) > 1:
        raise InputError(_several(reference, [f"{item.name}: {doc_id}" for item, doc_id in found]))
    collection, doc_id = found[0]
    return collection, _hit(1, collection.index.get(doc_id), collection)


def passages_of_file(collection: Collection, uri: str) -> list[CollectionHit]:
    """The passages of a file, in the order in which they were read. There are none if it is not in the index.

    Args:
        collection: the collection.
        uri: the name of the file in the index.

    Raises:
        CollectionNotFoundError: if the collection has no index.
    """
    index = collection.index
    passages = index.passages(doc_ids=index.passages_of(uri))
    return [_hit(number, passage, collection) for number, passage in enumerate(passages, start=1)]


def _hit(rank: int, passage: StoredPassage, collection: Collection) -> CollectionHit:
    values = passage.doc_id, passage.text, passage.metadata, passage.source, passage.position
    return located(Hit(rank, 0.0, *values), collection)


def find_file(collections: Sequence[Collection], place: PlaceInFile) -> tuple[Collection, str]:
    """The collection and the name in its index of a file. Only files that are in an index are found.

    Raises:
        InputError: if there is no such file, or more than one.
        CollectionNotFoundError: if none of the collections has an index.
    """
    usable = _with_index(collections)
    name = place.path.strip("/")
    exact, ends = [], []
    for collection in usable:
        known = {source.uri for source in collection.index.sources()}
        uri = collection.settings.uri_of(expanded(place.path))
        exact += [(collection, item) for item in dict.fromkeys((uri, place.path)) if item in known]
        ends += [(collection, item) for item in sorted(known) if item.endswith(f"/{name}")]
    found = exact or ends
    if not found:
        names = ", ".join(collection.name for collection in usable)
        several = "s" * (len(usable) > 1)
        raise InputError(f"{place.path!r:.200}: is not a file of collection{several} {names}.")
    if len(found) > 1:
        raise InputError(_several(place.path, [f"{item.name}: {uri}" for item, uri in found]))
    collection, uri_or_none = found[0]
    assert uri_or_none is not None
    return collection, uri_or_none


def _with_index(collections: Sequence[Collection]) -> list[Collection]:
    """The collections that have an index."""
    usable = []
    for collection in collections:
        try:
            _ = collection.index
        except CollectionNotFoundError:
            if len(collections) == 1:
                raise
            continue
        usable.append(collection)
    if not usable:
        raise CollectionNotFoundError(collections[0].name, "has no index yet. Run mlx-colbert sync.")
    return usable


def _at_line(collection: Collection, uri: str, line: int) -> str:
    """The id of the passage that a line of a file is in, or of the next one after that line."""
    index = collection.index
    passages = index.passages(doc_ids=index.passages_of(uri))
    spans = {
        item.doc_id: item.position["lines"] for item in passages if item.position and "lines" in item.position
    }
    after = {doc_id: start for doc_id, (start, end) in spans.items() if end >= line}
    if not spans:
        raise InputError(f"{uri}: has no lines. Give the id of a passage.")
    if not after:
        raise InputError(f"{uri}: has no passage at line {line:,} or after it.")
    return min(after, key=lambda doc_id: after[doc_id])


def _several(reference: str, candidates: Sequence[str]) -> str:
    listed = "\n".join(f"  {name}" for name in candidates[:_MAX_CANDIDATES])
    more = "\n  …" if len(candidates) > _MAX_CANDIDATES else ""
    told = f"{reference!r:.200}: there are {len(candidates):,}. Name one in full, or its collection:"
    return f"{told}\n{listed}{more}"
