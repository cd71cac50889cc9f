"""The collections that a request names, opened for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.collection.choosing import opened
from mlx_colbert.collection.collection import Collection
from mlx_colbert.server.routes.dependencies import settings_of, worked
from mlx_colbert.server.settings import Settings

__all__ = ["answered", "collections_of", "one"]


@contextmanager
def collections_of(settings: Settings, names: Sequence[str], notes: list[str]) -> Iterator[list[Collection]]:
    """A block that has the collections with these names, or all of them.

    Args:
        settings: those of the server.
        names: the names. A path is no name: only collections of the user are served.
        notes: receives a sentence for each one that cannot be opened.
    """
    with opened(settings.registry, names, on_left_out=notes.append) as collections:
        yield collections


@contextmanager
def one(request: Request, name: str) -> Iterator[Collection]:
    """A block that has the collection with a name."""
    with collections_of(settings_of(request), [name], []) as (collection,):
        yield collection


async def answered(request: Request, work: Callable[[], Any], *, status: int = 200) -> Response:
    """The response with the JSON of what a worker returns. The worker writes the JSON too."""

    def written() -> bytes:
        return json.dumps(work(), ensure_ascii=False, allow_nan=False).encode()

    content = await worked(request, written)
    return Response(content, status_code=status, media_type="application/json")
