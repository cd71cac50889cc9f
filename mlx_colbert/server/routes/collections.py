"""Collections: list, make, look at, describe, remove, and bring in step with their files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.collection.choosing import Wanted, chosen
from mlx_colbert.collection.contexts import set_context
from mlx_colbert.collection.overview import overview
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.uploads import create_uploads
from mlx_colbert.engine.syncs import begin_sync
from mlx_colbert.errors import InputError
from mlx_colbert.places import expanded
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.dependencies import jobs_of, model_of, settings_of, worked
from mlx_colbert.server.routes.opened import answered, one
from mlx_colbert.server.routes.search import Text, Texts
from mlx_colbert.server.routes.shapes import JobStarted, job_body
from mlx_colbert.server.settings import Settings

__all__ = ["Name", "router"]

router = APIRouter(tags=["collections"])

Name = Annotated[str, Path(max_length=200, description="the name of a collection")]
# Seconds that a removal waits for another process that changes the collection. Its client waits too.
_REMOVE_WAIT_S = 10.0
# Two requests at the same time must not make one collection twice.
_making = threading.Lock()


class Overview(BaseModel):
    """What a collection consists of, as of its last sync."""

    name: str
    path: str = Field(description="the folder of its settings and its index")
    is_trusted: bool = Field(description="whether its settings are used")
    folders: dict[str, str] = Field(description="label → path")
    model: str | None
    context: str | None = Field(description="what the user has said about the whole of it")
    files: int
    passages: int
    documents: int = Field(description="number of passages that come from no file")
    bytes: int
    failed: int = Field(description="number of files that could not be read")
    waiting: dict[str, int] = Field(description="extra that is not installed → files that wait for it")
    synced_at: float | None = Field(description="seconds since 1970")
    error: str | None = Field(description="why it cannot be used")


class Overviews(BaseModel):
    """All collections."""

    collections: list[Overview]


class Status(BaseModel):
    """What a collection consists of, and how far it is behind its files."""

    name: str
    path: str
    is_trusted: bool
    folders: dict[str, str]
    model: str
    index_model: str | None
    n_files: int
    n_passages: int
    n_documents: int
    n_bytes: int
    new: int
    changed: int
    vanished: int
    missing: dict[str, int] = Field(description="folder → files in the index")
    failed: dict[str, str] = Field(description="path → reason")
    waiting: dict[str, int]
    synced_at: float | None


class NewCollection(BaseModel):
    """A folder that becomes a collection; or, with a name, a collection of uploads or of documents."""

    model_config = ConfigDict(extra="forbid")

    folder: Text | None = Field(None, description="an absolute path of this machine")
    name: Text | None = Field(None, description="its name; none: that of the folder")
    uploads: bool = Field(False, description="files are sent by PUT /collections/{name}/files/{path}")
    model: Text | None = Field(None, description="a model that a collection or this server has already")
    include: Texts | None = Field(None, description="read only files that match, as in a .gitignore")
    exclude: Texts | None = Field(None, description="leave out files and folders that match")


class NewContext(BaseModel):
    """What is said about a collection, or a file or folder of it."""

    model_config = ConfigDict(extra="forbid")

    context: Text | None = Field(description="a sentence; null removes it")
    path: Text = Field("/", description="/ is the whole; else a name such as notes/minutes")


class Contexts(BaseModel):
    """What is said about a collection, and files and folders of it."""

    name: str
    contexts: dict[str, str] = Field(description="path → sentence")


class SyncRequest(BaseModel):
    """How to bring a collection in step."""

    model_config = ConfigDict(extra="forbid")

    rebuild: bool = Field(False, description="make the index again")


class Removed(BaseModel):
    """A collection that was removed."""

    removed: str


@router.get("/collections", response_model=Overviews)
async def collections(request: Request) -> Response:
    """List the collections. Their files are not looked at."""
    registry = settings_of(request).registry
    return await answered(
        request, lambda: {"collections": [overview(place).to_dict() for place in registry.list()]}
    )


@router.post("/collections", response_model=JobStarted, status_code=202)
async def make(request: Request, body: NewCollection) -> JobStarted:
    """Make a collection, and begin to read its files."""
    settings, jobs = settings_of(request), jobs_of(request)

    def made() -> Place:
        with _making:
            return _made(settings, body, model_of(request).source)

    place = await worked(request, made)
    return JobStarted(name=place.name, job=job_body(begin_sync(jobs, settings.registry, place)))


def _made(settings: Settings, body: NewCollection, served: str) -> Place:
    registry = settings.registry
    if body.model not in (None, served) and body.model not in _known_models(settings):
        detail = f"model {body.model!r:.200}: no collection has it, and this server was not started with it."
        raise Problem(422, f"{detail} Make the collection with mlx-colbert sync --model.")
    wanted = Wanted(body.model or served, body.include, body.exclude)
    if body.folder is None:
        if body.name is None or (not body.uploads and (body.include or body.exclude)):
            raise Problem(422, "Give a folder; or a name, for a collection of uploads or of documents.")
        new = wanted.applied(CollectionSettings())
        return create_uploads(registry, body.name, new) if body.uploads else registry.create(new, body.name)
    folder = expanded(body.folder)
    if body.uploads or "\0" in body.folder or not folder.is_absolute():
        raise Problem(422, "folder: give an absolute path, and no uploads.")
    if folder.resolve() == FilePath("/"):
        raise Problem(422, "folder: the whole disk cannot be a collection. Give a folder in it.")
    if folder.resolve().is_relative_to(registry.home.resolve()):
        raise Problem(422, "folder: is in the folder that the collections themselves are in.")
    (place,) = chosen(
        registry,
        [folder],
        name=body.name,
        wanted=Wanted(body.model, body.include, body.exclude),
        model=served,
    )
    if place.beside is not None:
        detail = (
            f"{folder}: has a collection beside its files. The command line uses it, the server does not."
        )
        raise Problem(409, detail)
    return place


def _known_models(settings: Settings) -> set[str | None]:
    return {overview(place).model for place in settings.registry.list()}


@router.get("/collections/{name}", response_model=Status)
async def status(request: Request, name: Name) -> Response:
    """Compare a collection with its files. No file is read."""

    def compared() -> dict[str, Any]:
        with one(request, name) as collection:
            return dict(vars(collection.status()))

    return await answered(request, compared)


@router.patch("/collections/{name}", response_model=Contexts)
async def describe(request: Request, name: Name, body: NewContext) -> Response:
    """Say what a collection, or a file or a folder of it, is about."""

    def described() -> dict[str, Any]:
        with one(request, name) as collection:
            path = body.path
            if path != "/" and not FilePath(path).is_absolute():
                place = collection.settings.path_of(path)
                if place is None:
                    known = ", ".join(collection.settings.folders) or "none"
                    raise InputError(f"{path!r:.200}: is in no folder of the collection. There are: {known}.")
                path = str(place)
        changed, _ = set_context(settings_of(request).registry, path, body.context, name=collection.name)
        return {"name": changed.name, "contexts": dict(changed.settings.contexts)}

    return await answered(request, described)


@router.delete("/collections/{name}", response_model=Removed)
async def remove(request: Request, name: Name) -> Response:
    """Remove a collection with its documents and uploads. Files in folders of the user stay."""
    registry = settings_of(request).registry

    def removed() -> dict[str, Any]:
        place = registry.remove(registry.named(name).name, wait_s=_REMOVE_WAIT_S)
        return {"removed": place.name}

    return await answered(request, removed)


@router.post("/collections/{name}/sync", response_model=JobStarted, status_code=202)
async def sync(request: Request, name: Name, body: SyncRequest | None = None) -> JobStarted:
    """Begin to bring a collection in step with its files."""
    settings = settings_of(request)
    find: Callable[[], Place] = lambda: settings.registry.named(name)  # noqa: E731
    place = await worked(request, find)
    rebuild = body is not None and body.rebuild
    job = begin_sync(jobs_of(request), settings.registry, place, rebuild=rebuild)
    return JobStarted(name=place.name, job=job_body(job))
