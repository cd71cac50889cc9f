"""Finds passages by their ids, by short ids, by a line or page of their file, or by the file alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit, located
from mlx_colbert.counts import counted, listed
from mlx_colbert.errors import CollectionNotFoundError, InputError, SeveralFoundError
from mlx_colbert.index import StoredPassage
from mlx_colbert.places import expanded
from mlx_colbert.store import Store
from mlx_colbert.types import Hit, Position

__all__ = ["PlaceInFile", "find_file", "find_passage", "passage_of", "passages_in"]

_SHORT_ID = re.compile(r"#?([0-9a-f]{8})")
_PLACE = re.compile(r"(.+?)(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?", re.DOTALL)
# The most candidates that an error message names.
_MAX_CANDIDATES = 8
# More than any number of a reference.
_NO_END = 10**10


@dataclass(frozen=True)
class PlaceInFile:
    """A file, and lines in it, or pages of a file without lines.

    Attributes:
        path: a path of the disk, a name in the index, or the end of one.
        line: the first line (or page, slide, cell), from 1. None: it is not given.
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
        reference: an id (`notes/tea.md#1a2b3c4d`), its short form (`#1a2b3c4d`), a line or page of a file
            (`notes/tea.md:12`, `papers/bees.pdf:3`), or a file with one passage (`notes/tea.md`).

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
        files = _files(usable, place)
        if place.line is None and not files:
            raise _unknown(reference)
        collection, uri = _only_file(usable, place, files)
        found = [(collection, _at(collection.index, uri, place.line))]
    if len(found) > 1:
        raise _several_found(reference, found)
    collection, doc_id = found[0]
    return collection, located(_hit(collection.index.get(doc_id)), collection)


def passage_of(index: Store, reference: str) -> Hit:
    """The passage of an index that a reference names.

    It is an id, a line of a source (`notes/tea.md:12`), or a source with one passage (`notes/tea.md`).

    Raises:
        InputError: if there is no such passage, or more than one.
    """
    if reference in index:
        return _hit(index.get(reference))
    place = PlaceInFile.parse(reference)
    uris = [source.uri for source in index.sources()]
    found = [uri for uri in uris if uri == place.path] or [
        uri for uri in uris if uri.endswith(f"/{place.path}")
    ]
    if not found:
        raise _unknown(reference)
    if len(found) > 1:
        raise InputError(_several(reference, found, "Name one in full:"))
    return _hit(index.get(_at(index, found[0], place.line)))


def passages_in(collection: Collection, uri: str, place: PlaceInFile) -> list[CollectionHit]:
    """The passages of a file as they are stored, by their places.

    Those of a file without pages come in the order in which they were indexed.

    Args:
        collection: the collection.
        uri: the name of the file in the index.
        place: the pages (or slides, cells) that are asked for: one, if no number of them is given. Without
            a page, all.

    Raises:
        InputError: if the file has no pages, or no passage on these.
    """
    index = collection.index
    passages = list(index.passages(doc_ids=index.passages_of(uri)))
    spans = _spans(passages)
    if place.line is not None:
        first, last = place.line, place.line + (place.n_lines or 1) - 1
        asked = {doc_id for doc_id, (start, end) in spans.items() if start <= last and first <= end}
        passages = [item for item in passages if item.doc_id in asked]
    if not passages:
        raise InputError(_no_passage(uri, place.line, spans.values()))
    passages.sort(key=lambda item: spans.get(item.doc_id, (0, 0)))
    return [located(_hit(item), collection) for item in passages]


def find_file(collections: Sequence[Collection], place: PlaceInFile) -> tuple[Collection, str]:
    """The collection and the name in its index of a file. Only files that are in an index are found.

    Raises:
        InputError: if there is no such file, or more than one.
        CollectionNotFoundError: if none of the collections has an index.
    """
    usable = _with_index(collections)
    return _only_file(usable, place, _files(usable, place))


def _files(usable: Sequence[Collection], place: PlaceInFile) -> list[tuple[Collection, str]]:
    """The files of a path: those that have it as their whole path or name, or else as the end of it."""
    name = place.path.strip("/")
    exact: list[tuple[Collection, str]] = []
    ends: list[tuple[Collection, str]] = []
    for collection in usable:
        known = {source.uri for source in collection.index.sources()}
        uri = collection.settings.uri_of(expanded(place.path))
        exact += [(collection, item) for item in dict.fromkeys((uri, place.path)) if item and item in known]
        ends += [(collection, item) for item in sorted(known) if item.endswith(f"/{name}")]
    return exact or ends


def _only_file(
    usable: Sequence[Collection], place: PlaceInFile, found: Sequence[tuple[Collection, str]]
) -> tuple[Collection, str]:
    if not found:
        names = listed([collection.name for collection in usable], "and")
        where = f"the collections {names}" if len(usable) > 1 else f"collection {names}"
        raise InputError(f"{place.path!r:.200}: is not a file of {where}.")
    if len(found) > 1:
        raise _several_found(place.path, found)
    return found[0]


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


def _at(index: Store, uri: str, line: int | None) -> str:
    """The id of the passage of a file at a line (or page), or of the next one. None: of its only passage."""
    doc_ids = index.passages_of(uri)
    if line is None and len(doc_ids) == 1:
        return doc_ids[0]
    spans = _spans(index.passages(doc_ids=doc_ids))
    if line is None:
        if not doc_ids:
            raise InputError(_no_passage(uri, None, ()))
        starts = sorted({start for start, _ in spans.values()})
        places, named = [f"{uri}:{start}" for start in starts], "as PATH:LINE, or by its id"
        if not starts:
            places, named = list(doc_ids), "by its id"
        told = f"{uri}: has {counted(len(doc_ids), 'passage')}. Name one {named}:"
        raise InputError(f"{told}\n{_listed(places)}")
    after = {doc_id: start for doc_id, (start, end) in spans.items() if end >= line}
    if not after:
        raise InputError(_no_passage(uri, line, spans.values()))
    return min(after, key=lambda doc_id: after[doc_id])


def _hit(passage: StoredPassage) -> Hit:
    return Hit(1, 0.0, passage.doc_id, passage.text, passage.metadata, passage.source, passage.position)


def _unknown(reference: str) -> InputError:
    return InputError(f"{reference!r:.200}: there is no such passage. Search prints the ids of passages.")


def _spans(passages: Iterable[StoredPassage]) -> dict[str, tuple[int, int]]:
    """The first and the last line (or page, slide, cell) of each passage that has one, by its id."""
    positions = {item.doc_id: item.position or Position() for item in passages}
    cells = sorted({position["cell"] for position in positions.values() if "cell" in position})
    # A passage may have several cells, and its position is the first. Nothing tells the end of the last.
    ends = {cell: following - 1 for cell, following in itertools.pairwise([*cells, _NO_END])}
    spans = {}
    for doc_id, position in positions.items():
        if lines := position.get("lines"):
            spans[doc_id] = lines[0], lines[1]
        elif (number := position.get("page") or position.get("slide")) is not None:
            spans[doc_id] = number, number
        elif (cell := position.get("cell")) is not None:
            spans[doc_id] = cell, ends[cell]
    return spans


def _no_passage(uri: str, number: int | None, spans: Iterable[tuple[int, int]]) -> str:
    """Why a file has no passage at a line or a page."""
    if number is None:
        return f"{uri}: has no passages."
    last = max((end for _, end in spans), default=None)
    if last is None:
        return f"{uri}: has no lines or pages. Give the file alone, or the id of a passage."
    return f"{uri}: has no passage at {number:,}. The last one ends at {last:,}."


def _several_found(reference: str, found: Sequence[tuple[Collection, str]]) -> SeveralFoundError:
    """That a reference names several things of collections, each of which is listed."""
    names = list(dict.fromkeys(item.name for item, _ in found))
    is_enough = len(names) == len(found)
    advice = "Name the collection:" if is_enough else "Name one in full:"
    told = _several(reference, [f"{item.name}: {name}" for item, name in found], advice)
    return SeveralFoundError(told, names if len(names) > 1 else [])


def _several(reference: str, candidates: Sequence[str], advice: str) -> str:
    return f"{reference!r:.200}: there are {len(candidates):,}. {advice}\n{_listed(candidates)}"


def _listed(candidates: Sequence[str]) -> str:
    """The first candidates, a line each."""
    lines = "\n".join(f"  {name}" for name in candidates[:_MAX_CANDIDATES])
    return lines + ("\n  …" if len(candidates) > _MAX_CANDIDATES else "")
