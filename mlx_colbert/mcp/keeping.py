"""What the tools `collections`, `status` and `sync` do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.overview import overview
from mlx_colbert.collection.place import Place
from mlx_colbert.engine.jobs import Job, Jobs
from mlx_colbert.errors import ColBERTError
from mlx_colbert.mcp.finding import Shown
from mlx_colbert.mcp.places import when
from mlx_colbert.mcp.results import (
    CollectionInfo,
    Collections,
    CollectionState,
    State,
    SyncDone,
    Synced,
)
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.untrusted_text import one_line
from mlx_colbert.progress import Progress

__all__ = ["begun", "done", "listed", "progress_of", "state"]

_MOST_COLLECTIONS = 50
_MOST_FAILURES = 10
_MOST_CHARACTERS = 300


def listed(served: Served) -> Shown:
    """The collections that can be searched.

    Raises:
        CollectionNotFoundError: if there is none.
    """
    places = served.places()
    infos = [_info(place) for place in places[:_MOST_COLLECTIONS]]
    result = Collections(collections=infos, left_out=max(len(places) - _MOST_COLLECTIONS, 0))
    return Shown(result, "\n".join([*map(_info_line, infos), *_left_out(result.left_out)]))


def _info(place: Place) -> CollectionInfo:
    found = overview(place)
    info = CollectionInfo(
        name=one_line(found.name),
        folders=[one_line(folder) for folder in found.folders.values()],
        about=[],
        files=found.files,
        passages=found.passages,
        synced=when(found.synced_at),
        error=None if found.error is None else _short(found.error),
    )
    if info.error is None:
        contexts = place.settings().contexts.items()
        info.about = [_short(value if key == "/" else f"{key}: {value}") for key, value in contexts]
    return info


def _info_line(info: CollectionInfo) -> str:
    if info.error:
        return f"{info.name}: {info.error}"
    about = f" ({'; '.join(info.about)})" if info.about else ""
    return (
        f"{info.name}: {', '.join(info.folders) or 'no folder'}{about}. {info.files:,} files, "
        f"{info.passages:,} passages, all files last read: {info.synced or 'never'}."
    )


def state(served: Served, names: Sequence[str]) -> Shown:
    """How far the indexes of collections are behind their files. No file is read.

    Raises:
        CollectionNotFoundError: if one does not exist.
    """
    places = served.places(names)
    states = [_state(served, place) for place in places[:_MOST_COLLECTIONS]]
    result = State(collections=states, left_out=max(len(places) - _MOST_COLLECTIONS, 0))
    lines = [line for item in states for line in _state_lines(item)]
    return Shown(result, "\n".join([*lines, *_left_out(result.left_out)]))


def _state(served: Served, place: Place) -> CollectionState:
    name = one_line(place.name)
    try:
        with Collection(place, backend=served.backend) as collection:
            status = collection.status()
    except (ColBERTError, OSError) as error:
        return CollectionState(name=name, error=_short(error))
    notes = [
        f"{n_files:,} files need an extra. The user can run: pip install 'mlx-colbert[{extra}]'"
        for extra, n_files in status.waiting.items()
    ]
    notes += [
        f"Folder {one_line(folder)} is missing or empty. The index still has {n_files:,} of its files."
        for folder, n_files in status.missing.items()
    ]
    if not status.is_trusted:
        notes.append("Its settings are not used, because the user does not trust them.")
    failed = list(status.failed.items())
    return CollectionState(
        name=name,
        is_fresh=not (status.new or status.changed or status.vanished),
        files=status.n_files,
        passages=status.n_passages,
        new=status.new,
        changed=status.changed,
        vanished=status.vanished,
        failed={one_line(path): _short(reason) for path, reason in failed[:_MOST_FAILURES]},
        n_failed=len(failed),
        notes=notes,
        synced=when(status.synced_at),
    )


def _state_lines(item: CollectionState) -> list[str]:
    if item.error:
        return [f"{item.name}: {item.error}"]
    behind = [f"{getattr(item, key):,} {key}" for key in ("new", "changed", "vanished") if getattr(item, key)]
    lines = [
        f"{item.name}: {item.files:,} files, {item.passages:,} passages. "
        f"{'Behind its files: ' + ', '.join(behind) if behind else 'In step with its files'}. "
        f"All files last read: {item.synced or 'never'}."
    ]
    lines += [f"  not read: {path}: {reason}" for path, reason in item.failed.items()]
    if (n_more := item.n_failed - len(item.failed)) > 0:
        lines.append(f"  not read: {n_more:,} more files")
    return lines + [f"  {note}" for note in item.notes]


def begun(served: Served, jobs: Jobs, names: Sequence[str]) -> list[Job]:
    """Begin to bring collections in step with their files. A sync that runs already is not begun again.

    Raises:
        CollectionNotFoundError: if one does not exist.
        BusyError: if too many jobs wait.
    """
    found = []
    for place in served.places(names):
        running = [job for job in jobs.all() if (job.what, job.target) == ("sync", _target(place))]
        unfinished = [job for job in running if not job.has_ended]
        found.append(
            unfinished[0] if unfinished else jobs.start("sync", _target(place), _sync(served, place))
        )
    return found


def _target(place: Place) -> str:
    """What a job calls a collection. One beside files may have the name of another one."""
    return str(place.beside or place.name)


def _sync(served: Served, place: Place) -> Callable[[Progress], dict[str, Any]]:
    def work(progress: Progress) -> dict[str, Any]:
        # The folder of uploads is never on a disk that is not there now.
        prune = served.registry.uploads_of(place) is not None
        with Collection(place, backend=served.backend) as collection:
            # Another process may be changing it: a watcher, or another assistant.
            result = collection.sync(prune=prune, progress=progress, on_wait=lambda sentence: None)
        # A server over HTTP shows it among its jobs.
        return result.to_dict()

    return work


def progress_of(jobs: Sequence[Job]) -> float:
    """How many of the syncs are done. One that runs counts for a part."""
    parts = (1.0 if job.has_ended else min(job.n_done / job.n_all, 1.0) if job.n_all else 0.0 for job in jobs)
    return sum(parts)


def done(served: Served, jobs: Sequence[Job]) -> Shown:
    """What syncs have done, or how far they are."""
    names = {_target(place): one_line(place.name) for place in served.places()}
    result = Synced(syncs=[_done(names.get(job.target, job.target), job) for job in jobs])
    return Shown(result, "\n".join(map(_done_line, result.syncs)))


def _done(name: str, job: Job) -> SyncDone:
    if job.state == "done":
        result: dict[str, Any] = job.result
        return SyncDone(
            collection=name,
            state="done",
            new=len(result["new"]),
            changed=len(result["changed"]),
            moved=len(result["moved"]),
            deleted=len(result["deleted"]),
            passages=result["passages"],
            not_read=len(result["failed"]),
        )
    if job.state == "failed":
        return SyncDone(collection=name, state="failed", error=_short(job.error))
    return SyncDone(
        collection=name, state=job.state, stage=job.stage or None, n_done=job.n_done, n_all=job.n_all
    )


def _done_line(item: SyncDone) -> str:
    if item.state == "failed":
        return f"{item.collection}: failed. {item.error}"
    if item.state != "done":
        far = f" ({item.stage}: {item.n_done:,} of {item.n_all or '?'})" if item.stage else ""
        return (
            f"{item.collection}: still {item.state}{far}. It goes on. Call sync again to see how far it is."
        )
    numbers = [
        f"{getattr(item, key):,} {key}"
        for key in ("new", "changed", "moved", "deleted")
        if getattr(item, key)
    ]
    unread = f" {item.not_read:,} files could not be read: status says why." if item.not_read else ""
    return (
        f"{item.collection}: {', '.join(numbers) or 'in step'}; {item.passages:,} passages encoded.{unread}"
    )


def _left_out(n: int) -> list[str]:
    return [f"… and {n:,} more."] if n else []


def _short(error: object) -> str:
    text = one_line(str(error))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
