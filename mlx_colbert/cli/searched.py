"""The collections of a command line, opened."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_colbert.collection.collection import Collection
    from mlx_colbert.kernels import Backend

__all__ = ["HIT_KEYS", "add_collections", "opened_collections"]

HIT_KEYS = """{"collection", "short_id", "path", "link", "similarity", "confidence",
"context": [sentences], "matches": [[start, end, similarity, query_word]], "words": [],
"surroundings": {"first", "before": [lines], "after": [lines]} | null}"""


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
    from mlx_colbert.collection.choosing import opened
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.places import here

    with opened(Registry(), names or (), near=here(), backend=backend, on_left_out=note) as collections:
        yield collections
