"""What the tools `collections`, `status` and `sync` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.overview import overview
from mlx_colbert.collection.place import Place
from mlx_colbert.counts import counted
from mlx_colbert.engine.jobs import Job, Jobs
from mlx_colbert.engine.syncs import begin_sync, open_syncs
from mlx_colbert.errors import ColBERTError
from mlx_colbert.mcp.facts import when
from mlx_colbert.mcp.finding import Shown
from mlx_colbert.mcp.results import (
    CollectionInfo,
    Collections,
    CollectionState,
    CollectionStates,
    SyncDone,
    Synced,
)
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.untrusted_text import one_line

__all__ = ["Begun", "begun", "done", "listed", "state"]

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
        f"{info.name}: {', '.join(info.folders) or 'no folder'}{about}. {counted(info.files, 'file')}, "
        f"{counted(info.passages, 'passage')}, all files last read: {info.synced or 'never'}."
    )


def state(served: Served, names: Sequence[str]) -> Shown:
    """How far the indexes of collections are behind their files. No file is read.

    Raises:
        CollectionNotFoundError: if one does not exist.
    """
    places = served.places(names)
    states = [_state(served, place) for place in places[:_MOST_COLLECTIONS]]
    result = CollectionStates(collections=states, left_out=max(len(places) - _MOST_COLLECTIONS, 0))
    lines = [line for item in states for line in _state_lines(item)]
    return Shown(result, "\n".join([*lines, *_left_out(result.left_out)]))


def _state(served: Served, place: Place) -> CollectionState:
    name = one_line(place.name)
    try:
        with Collection(place, backend=served.backend) as collection:
            status = collection.status()
    except (ColBERTError, OSError) as error:
        return CollectionState(name=name, error=_short(error))
    notes = _notes(status.waiting, status.missing)
    if not status.is_trusted:
        notes.append("Its settings are not used, because the user does not trust them.")
    failed = list(status.failed.items())
    return CollectionState(
        name=name,
        is_fresh=not (status.new or status.changed or status.vanished or status.missing),
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


def _notes(waiting: Mapping[str, int], missing: Mapping[str, int]) -> list[str]:
    """What the user may have to do.

    Args:
        waiting: extra that is not installed → number of files that wait for it.
        missing: folder that is missing or empty → number of its files in the index.
    """
    notes = [
        f"Not read without an extra: {counted(n_files, 'file')}. The user can run: "
        f"pip install 'mlx-colbert[{extra}]'"
        for extra, n_files in waiting.items()
    ]
    return notes + [
        f"Folder {one_line(folder)} is missing or empty. "
        f"The index still has {counted(n_files, 'file')} of it."
        for folder, n_files in missing.items()
    ]


def _state_lines(item: CollectionState) -> list[str]:
    if item.error:
        return [f"{item.name}: {item.error}"]
    behind = [f"{getattr(item, key):,} {key}" for key in ("new", "changed", "vanished") if getattr(item, key)]
    if behind:
        how_far = f"Behind its files: {', '.join(behind)}"
    else:
        how_far = "In step with its files" if item.is_fresh else "Some of its files are missing"
    lines = [
        f"{item.name}: {counted(item.files, 'file')}, {counted(item.passages, 'passage')}. {how_far}. "
        f"All files last read: {item.synced or 'never'}."
    ]
    lines += [f"  not read: {path}: {reason}" for path, reason in item.failed.items()]
    if (n_more := item.n_failed - len(item.failed)) > 0:
        lines.append(f"  not read: {counted(n_more, 'more file')}")
    return lines + [f"  {note}" for note in item.notes]


def begun(served: Served, jobs: Jobs, names: Sequence[str]) -> list[Begun]:
    """Begin to bring collections in step with their files.

    Raises:
        CollectionNotFoundError: if one does not exist.
        BusyError: if too many jobs wait.
    """
    found = []
    for place in served.places(names):
        before = open_syncs(jobs, place)
        last = begin_sync(jobs, served.registry, place, backend=served.backend)
        found.append(Begun(one_line(place.name), list(dict.fromkeys([*before, last]))))
    return found


class Begun(NamedTuple):
    """The syncs of a collection that a call waits for.

    Attributes:
        name: the name of the collection.
        jobs: the sync that the call began, after those that ran already.
    """

    name: str
    jobs: list[Job]

    @property
    def has_ended(self) -> bool:
        """Whether all have ended."""
        return all(job.has_ended for job in self.jobs)

    @property
    def part(self) -> float:
        """How much of them is done, 0 to 1."""
        parts = (
            1.0 if job.has_ended else min(job.n_done / job.n_all, 1.0) if job.n_all else 0.0
            for job in self.jobs
        )
        return sum(parts) / len(self.jobs)


def done(syncs: Sequence[Begun]) -> Shown:
    """What syncs have done, or how far they are."""
    result = Synced(syncs=[_done(one.name, one.jobs) for one in syncs])
    return Shown(result, "\n".join(line for item in result.syncs for line in _done_lines(item)))


def _done(name: str, jobs: Sequence[Job]) -> SyncDone:
    unfinished = [job for job in jobs if not job.has_ended]
    if unfinished:
        now = unfinished[0]
        return SyncDone(
            collection=name, state=now.state, stage=now.stage or None, done=now.n_done, total=now.n_all
        )
    if jobs[-1].error is not None:
        return SyncDone(collection=name, state="failed", error=_short(jobs[-1].reason))
    results: list[dict[str, Any]] = [job.result for job in jobs if job.error is None]
    last = results[-1]
    return SyncDone(
        collection=name,
        state="done",
        new=sum(len(result["new"]) for result in results),
        changed=sum(len(result["changed"]) for result in results),
        moved=sum(len(result["moved"]) for result in results),
        deleted=sum(len(result["deleted"]) for result in results),
        passages=sum(result["passages"] for result in results),
        failed=len(last["failed"]),
        notes=_notes(last["waiting"], last["missing"]),
    )


def _done_lines(item: SyncDone) -> list[str]:
    if item.state == "failed":
        return [f"{item.collection}: failed. {item.error}"]
    if item.state == "waiting":
        return [f"{item.collection}: waits for its turn. Call sync again to see how far it is."]
    if item.state == "running":
        of_all = "" if item.total is None else f" of {item.total:,}"
        far = f" ({item.stage}: {item.done:,}{of_all})" if item.stage else ""
        return [f"{item.collection}: still running{far}. It goes on. Call sync again to see how far it is."]
    numbers = [
        f"{getattr(item, key):,} {key}"
        for key in ("new", "changed", "moved", "deleted")
        if getattr(item, key)
    ]
    files = f"files: {', '.join(numbers)}" if numbers else "no file had changed"
    unread = f" {counted(item.failed, 'file')} could not be read: status says why." if item.failed else ""
    return [
        f"{item.collection}: in step with its files ({files}; "
        f"{counted(item.passages, 'passage')} encoded).{unread}",
        *(f"  {note}" for note in item.notes),
    ]


def _left_out(n: int) -> list[str]:
    return [f"… and {n:,} more."] if n else []


def _short(error: object) -> str:
    text = one_line(str(error))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
