"""Checks of the passages that a caller gives to a store: their texts, metadata, sources and positions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from mlx_colbert.checks import check_list, check_new_ids, check_text, is_text
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.json_values import metadata_text
from mlx_colbert.types import Position, Source

__all__ = ["check_metadata", "check_passages", "check_positions", "check_source", "check_sources"]


def check_passages(
    doc_ids: Iterable[str],
    texts: Iterable[str | None] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
    **others: Sized,
) -> tuple[list[str], list[str | None], list[str | None]]:
    """Ids, texts and metadata (JSON) of passages to add.

    Raises:
        InputError: if there is nothing to add, or an id, text or metadata cannot be stored.
        DuplicateIdError: if a doc_id is given twice.
        ShapeError: if the number of texts, metadata or others is not the number of ids.
    """
    ids = check_new_ids(doc_ids)
    listed: list[str | None] = [None] * len(ids) if texts is None else check_list(texts, "texts")
    for name, values in {**others, "texts": listed}.items():
        _check_count(ids, values, name)
    for doc_id, text in zip(ids, listed, strict=True):
        if text is not None:
            check_text(text, f"text of passage {doc_id!r}", may_be_blank=True)
    return ids, listed, check_metadata(ids, [None] * len(ids) if metadata is None else metadata)


def check_metadata(doc_ids: Sequence[str], metadata: Iterable[Mapping[str, Any] | None]) -> list[str | None]:
    """The metadata of passages as JSON text.

    Raises:
        ShapeError: if their number is not the number of doc_ids.
        InputError: if one cannot be stored.
    """
    objects = check_list(metadata, "metadata", may_be_empty=True)
    _check_count(doc_ids, objects, "metadata")
    return [
        None if value is None else metadata_text(value, f"metadata of passage {doc_id!r}")
        for doc_id, value in zip(doc_ids, objects, strict=True)
    ]


def check_positions(doc_ids: Sequence[str], positions: Iterable[Position | None]) -> list[str | None]:
    """The positions of passages as JSON text.

    Raises:
        ShapeError: if their number is not the number of doc_ids.
        InputError: if one is not a `Position`.
    """
    places = check_list(positions, "positions", may_be_empty=True)
    _check_count(doc_ids, places, "positions")
    return [
        None if place is None else position_text(place, f"the position of passage {doc_id!r}")
        for doc_id, place in zip(doc_ids, places, strict=True)
    ]


def check_sources(doc_ids: Sequence[str], sources: Iterable[Source | None]) -> list[Source | None]:
    """The sources of passages.

    Raises:
        ShapeError: if their number is not the number of doc_ids.
        InputError: if an index cannot store one.
    """
    listed = check_list(sources, "sources", may_be_empty=True)
    _check_count(doc_ids, listed, "sources")
    for doc_id, source in zip(doc_ids, listed, strict=True):
        if source is not None:
            check_source(source, f"the source of passage {doc_id!r}")
    return listed


def check_source(source: object, name: str) -> None:
    """Raise an error if an index cannot store a source.

    Raises:
        InputError: the message says what is wrong.
    """
    if not isinstance(source, Source):
        raise InputError(f"{name} has the type {type(source).__name__}. Give a Source.")
    check_text(source.uri, f"the uri of {name}")
    for part in ("folder", "content_hash"):
        if (value := getattr(source, part)) is not None:
            check_text(value, f"{part} of {name}")
    for part in ("modified_ns", "n_bytes"):
        value = getattr(source, part)
        if value is not None and (type(value) is not int or not -(2**63) <= value < 2**63):
            raise InputError(f"{part} of {name} is {value!r}, not an integer of 64 bits.")


def position_text(position: object, name: str) -> str:
    """A position in a source as JSON.

    Raises:
        InputError: if a key is not one of `Position`, or its value has another type.
    """
    known = Position.__annotations__
    if not isinstance(position, Mapping) or not set(position) <= set(known):
        raise InputError(f"{name} is {position!r:.100}. Give a dict with the keys {', '.join(known)}.")
    for key, value in position.items():
        numbers, length = (value, 2) if key == "lines" else ([value], 1)
        if key == "headings":
            is_right = isinstance(value, list | tuple) and all(map(is_text, value))
        else:
            is_right = (
                isinstance(numbers, list | tuple)
                and len(numbers) == length
                and all(type(number) is int and 1 <= number < 2**63 for number in numbers)
            )
        if not is_right:
            raise InputError(
                f"{name}: {key!r} is {value!r:.100}. Numbers start at 1, and lines needs two of them."
            )
    return json.dumps(dict(position), ensure_ascii=False)


def _check_count(doc_ids: Sequence[str], values: Sized, name: str) -> None:
    if len(values) != len(doc_ids):
        raise ShapeError(f"{len(doc_ids)} doc_ids, but {len(values)} {name}. Give one per passage.")
