"""The collections of a command line, opened, and their hits as JSON objects."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_colbert.collection.collection import Collection
    from mlx_colbert.collection.hits import CollectionHit
    from mlx_colbert.kernels import Backend

__all__ = ["HIT_KEYS", "add_collections", "hit_object", "opened_collections"]

HIT_KEYS = """{"collection", "short_id", "path", "link", "similarity", "confidence",
"context": [sentences], "matches": [[start, end, similarity, query_word]], "surroundings"}"""


def add_collections(parser: argparse.ArgumentParser) -> None:
    """Add --collection."""
    parser.add_argument(
        "-c",
        "--collection",
        dest="collections",
        metavar="NAME",
        action="append",
        help="the name of a collection, or '.' for that beside the files here; again for more (default: all)",
    )


@contextmanager
def opened_collections(
    names: Sequence[str] | None, *, backend: Backend = "auto"
) -> Iterator[list[Collection]]:
    """A block that has the collections with these names, or all of them. Each model is loaded once.

    Without names, one that cannot be opened is left out, and a line on the standard error says why.

    Raises:
        CollectionNotFoundError: if one of them does not exist, or there is none.
        ConfigError: if the settings of one of them, or of all, are not valid.
    """
    from mlx_colbert.cli.output import note
    from mlx_colbert.collection.choosing import chosen
    from mlx_colbert.collection.collection import Collection
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.errors import ColBERTError
    from mlx_colbert.model.kept import keeping
    from mlx_colbert.places import here

    registry = Registry()
    if names:
        places = list({place.path: place for place in map(registry.find, names)}.values())
    else:
        places = chosen(registry, near=here())
    with keeping(), ExitStack() as opened:
        collections: list[Collection] = []
        for number, place in enumerate(places, start=1):
            try:
                collections.append(opened.enter_context(Collection(place, backend=backend)))
            except ColBERTError as error:
                if names or (number == len(places) and not collections):
                    raise
                note(f"Left out: {error}")
        yield collections


def hit_object(hit: CollectionHit) -> dict[str, Any]:
    """A hit as a JSON object."""
    return hit.to_dict() | {"short_id": hit.short_id, "link": hit.link, "context": list(hit.context)}
