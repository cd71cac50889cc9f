"""Files that are uploaded into a collection of uploads."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import ClientDisconnect, Request

from mlx_colbert.collection.place import Place
from mlx_colbert.collection.uploads import delete_upload, uploading
from mlx_colbert.engine.syncs import begin_sync
from mlx_colbert.errors import ColBERTError
from mlx_colbert.model.shared_encoder import CallerLeftError
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.collections import Name
from mlx_colbert.server.routes.dependencies import jobs_of, settings_of, worked
from mlx_colbert.server.routes.opened import one
from mlx_colbert.server.routes.shapes import JobStarted, job_body

__all__ = ["router"]

router = APIRouter(tags=["files"])

FilePath = Annotated[str, Path(max_length=2000, description="its path in the folder of the uploads")]
_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}


@router.put(
    "/collections/{name}/files/{path:path}",
    status_code=202,
    response_model=JobStarted,
    openapi_extra=_BODY,
)
async def put(request: Request, name: Name, path: FilePath) -> JobStarted:
    """Put a file into a collection of uploads, and begin to read it. It replaces one with this path."""
    settings = settings_of(request)
    with one(request, name) as collection, uploading(settings.registry, collection, path) as upload:
        try:
            async for part in request.stream():
                if part:
                    await asyncio.to_thread(upload.write, part)
        except ClientDisconnect as error:
            raise CallerLeftError("the client left") from error
        await asyncio.to_thread(upload.commit)
        return _begun(request, collection.place)


@router.delete("/collections/{name}/files/{path:path}", status_code=202, response_model=JobStarted)
async def delete(request: Request, name: Name, path: FilePath) -> JobStarted:
    """Delete a file of a collection of uploads, and begin to take its passages out of the index."""
    settings = settings_of(request)

    def deleted() -> Place:
        with one(request, name) as collection:
            try:
                delete_upload(settings.registry, collection, path)
            except FileNotFoundError as error:
                if isinstance(error, ColBERTError):
                    raise
                raise Problem(404, f"{path!r:.200}: there is no such file.") from error
            return collection.place

    return _begun(request, await worked(request, deleted))


def _begun(request: Request, place: Place) -> JobStarted:
    job = begin_sync(jobs_of(request), settings_of(request).registry, place)
    return JobStarted(name=place.name, job=job_body(job))
