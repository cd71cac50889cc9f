"""Search, passages, related passages, and lines of their files."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import least_confidence
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.lookup import PlaceInFile, find_file, find_passage, passages_in
from mlx_colbert.collection.quotes import quoted_lines
from mlx_colbert.collection.related import similar
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.collection.search import search
from mlx_colbert.collection.source_files import has_lines, with_surroundings
from mlx_colbert.errors import CollectionError, InputError
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.dependencies import WorkRoute, settings_of
from mlx_colbert.server.routes.opened import answered, collections_of, one
from mlx_colbert.server.routes.shapes import HitBody, Text, Texts
from mlx_colbert.server.settings import Settings

__all__ = ["router"]

router = APIRouter(tags=["search"], route_class=WorkRoute)

# Seconds that a regular expression of a client may take in one collection.
_PATTERN_S = 5.0


class SearchRequest(BaseModel):
    """A search in collections."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=10_000)
    k: int = Field(10, ge=1, le=1000, description="the most hits")
    collections: Texts = Field([], description="names; none: all collections")
    mode: Literal["semantic", "keyword", "hybrid"] = "hybrid"
    paths: Texts = Field([], alias="in", description="files, folders, or patterns such as *.md")
    kinds: Texts = Field([], alias="type", description="kinds of files such as markdown, pdf, py")
    since: Text | None = Field(None, description="only files changed since a day, a year, or an age (7d)")
    before: Text | None = Field(None, description="only files changed before a day, a year, or an age")
    regex: Text | None = Field(None, description="only passages that it is found in")
    filter: str | None = Field(None, max_length=10_000, description="a condition on the metadata")
    min_score: float | None = Field(None, ge=0, le=1, description="leave out hits with less confidence")
    all: bool = Field(False, description="also hits that are not relevant")
    refresh: bool = Field(True, description="look for changed files first")
    context: int | None = Field(None, ge=0, le=200, description="lines around each hit")
    shading: bool = Field(False, description="how much each word of each hit answers")


class QueryWord(BaseModel):
    """A word of the query."""

    start: int
    end: int
    text: str


class SearchAnswer(BaseModel):
    """The hits, the best first."""

    query: str
    hits: list[HitBody]
    below: int = Field(description="number of hits with too little confidence")
    best_below: float | None = Field(description="the best confidence among them")
    notes: list[str] = Field(description="what the user should know")
    query_words: list[QueryWord]
    took_ms: float


class SimilarAnswer(BaseModel):
    """Related passages, the most similar first."""

    hits: list[HitBody]


class SourceLines(BaseModel):
    """Lines of a file, or its passages if it has no lines."""

    source: str
    path: str | None
    first: int
    lines: list[str]
    n_lines: int
    is_indexed: bool = Field(description="false: the file has changed since it was indexed")
    passages: list[HitBody]


def _searched(settings: Settings, body: SearchRequest) -> dict[str, Any]:
    begun = time.perf_counter()
    notes: list[str] = []
    # Checked before anything is opened.
    least = least_confidence(body.min_score, body.mode, all=body.all)
    restriction = Restriction(
        body.paths,
        body.kinds,
        body.since,
        body.before,
        body.regex,
        body.filter,
        pattern_s=_PATTERN_S,
    )
    with collections_of(settings, body.collections, notes) as collections:
        found = search(
            collections,
            body.query,
            body.k,
            mode=body.mode,
            restriction=restriction,
            min_confidence=least,
            with_matches=True,
            with_words=body.shading,
            n_lines=body.context,
            refresh_s=settings.refresh_s if body.refresh else None,
        ).to_dict()
    found["notes"] += notes
    return {**found, "took_ms": round(1000 * (time.perf_counter() - begun), 1)}


def _passage(collection: Collection, doc_id: str) -> CollectionHit:
    """The passage with an id, or its short form.

    Raises:
        Problem: 404, if there is none, or more than one.
    """
    try:
        return find_passage([collection], doc_id)[1]
    except InputError as error:
        raise Problem(404, str(error)) from error


@router.post("/search", response_model=SearchAnswer)
async def search_collections(request: Request, body: SearchRequest) -> Response:
    """Search in collections by meaning and by words."""
    settings = settings_of(request)
    return await answered(request, lambda: _searched(settings, body))


# Before the passages: their ids may have slashes.
@router.get("/collections/{name}/passages/{doc_id:path}/similar", response_model=SimilarAnswer)
async def similar_passages(
    request: Request,
    name: Annotated[str, Path(max_length=200)],
    doc_id: Annotated[str, Path(max_length=2000)],
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Response:
    """Find passages of all collections that are related to a passage."""

    def related() -> dict[str, Any]:
        with one(request, name) as own, collections_of(settings_of(request), (), []) as collections:
            passage = _passage(own, doc_id)
            return {"hits": [hit.to_dict() for hit in similar(collections, own, passage, k)]}

    return await answered(request, related)


@router.get("/collections/{name}/passages/{doc_id:path}", response_model=HitBody)
async def passage(
    request: Request,
    name: Annotated[str, Path(max_length=200)],
    doc_id: Annotated[str, Path(max_length=2000)],
    context: Annotated[int | None, Query(ge=0, le=1000, description="lines around it")] = None,
) -> Response:
    """Read a passage by its id, or the short form of it."""

    def found() -> dict[str, Any]:
        with one(request, name) as collection:
            hit = _passage(collection, doc_id)
            return (hit if context is None else with_surroundings(hit, collection, context)).to_dict()

    return await answered(request, found)


@router.get("/collections/{name}/source", response_model=SourceLines)
async def source(
    request: Request,
    name: Annotated[str, Path(max_length=200)],
    path: Annotated[str, Query(max_length=2000, description="a file: `source` of a hit, its end, or a path")],
    first: Annotated[int, Query(ge=1, le=10**9, description="the first line")] = 1,
    count: Annotated[int, Query(ge=1, le=5000, description="the most lines")] = 200,
) -> Response:
    """Read lines of a file that is in the index, or the passages of a file without lines."""

    def read() -> dict[str, Any]:
        with one(request, name) as collection:
            return _source(collection, path, first, count)

    return await answered(request, read)


def _source(collection: Collection, path: str, first: int, count: int) -> dict[str, Any]:
    try:
        _, uri = find_file([collection], PlaceInFile(path))
    except InputError as error:
        raise Problem(404, str(error)) from error
    if not has_lines(uri):
        passages = passages_in(collection, uri, PlaceInFile(uri))
        shown = passages[first - 1 : first - 1 + count]
        return {
            "source": uri,
            "path": passages[0].path,
            "first": first,
            "lines": [],
            "n_lines": 0,
            "is_indexed": True,
            "passages": [hit.to_dict() for hit in shown],
        }
    try:
        found = quoted_lines(collection, uri, first, count)
    except CollectionError as error:
        raise Problem(404, str(error)) from error
    except OSError as error:
        raise Problem(404, f"{uri!r:.200}: cannot be read: {error.strerror}.") from error
    return {
        "source": uri,
        "path": found.path,
        "first": found.first,
        "lines": found.lines,
        "n_lines": found.n_lines,
        "is_indexed": found.is_indexed,
        "passages": [],
    }
