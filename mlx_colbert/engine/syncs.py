"""Syncs of collections as jobs: a program starts one over HTTP, an assistant by a tool, in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.registry import Registry
from mlx_colbert.engine.jobs import Job, Jobs
from mlx_colbert.errors import ColBERTError, CollectionError, message_of
from mlx_colbert.progress import Progress

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["begin_sync", "open_syncs"]

# Seconds that a sync waits for another process that changes the collection.
_WAIT_S = 60.0


def begin_sync(
    jobs: Jobs, registry: Registry, place: Place, *, rebuild: bool = False, backend: Backend = "auto"
) -> Job:
    """Begin to bring a collection in step with its files.

    If a sync of the collection waits for its turn, no other begins: that one will see all files as they are
    now. One that runs already may have looked at them before they changed.

    Args:
        jobs: runs it. Its result is that of `SyncResult.to_dict`.
        registry: where the collection is.
        place: the collection.
        rebuild: make the index again.
        backend: the kernels for the model.

    Returns:
        The job. If another process changes the collection for a minute, it fails, and says which process.

    Raises:
        BusyError: if too many jobs wait.
    """
    what = "rebuild" if rebuild else "sync"
    for job in open_syncs(jobs, place):
        if (job.what, job.state) == (what, "waiting"):
            return job
    return jobs.start(
        what, _target(place), lambda progress: _synced(registry, place, rebuild, backend, progress)
    )


def open_syncs(jobs: Jobs, place: Place) -> list[Job]:
    """The syncs of a collection that have not ended, the oldest first."""
    return [
        job
        for job in jobs.all()
        if job.what in ("sync", "rebuild") and job.target == _target(place) and not job.has_ended
    ]


def _target(place: Place) -> str:
    """What a job calls a collection. One beside its files may have the name of another one."""
    return str(place.beside or place.name)


def _synced(
    registry: Registry, place: Place, rebuild: bool, backend: Backend, progress: Progress
) -> dict[str, Any]:
    try:
        # The folder of uploads is never on a disk that is not there now.
        prune = registry.uploads_of(place) is not None
        with Collection(place, backend=backend) as collection:
            result = collection.sync(prune=prune, rebuild=rebuild, progress=progress, wait_s=_WAIT_S)
    except OSError as error:
        if isinstance(error, ColBERTError):
            raise
        raise CollectionError(place.name, f"cannot be read or written: {message_of(error)}") from error
    return result.to_dict()
