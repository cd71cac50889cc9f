"""What changed in the folders of a collection since they were read: sizes, times and hashes say it."""

from __future__ import annotations

import hashlib
import os
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.state import State, UnreadFile
from mlx_colbert.documents.folders import open_in
from mlx_colbert.documents.ignore_rules import Rules
from mlx_colbert.documents.kinds import kind_of
from mlx_colbert.documents.sources import content_hash, passage_rules
from mlx_colbert.documents.walk import FileState, FolderFiles, walk
from mlx_colbert.stages import stage
from mlx_colbert.types import Source

__all__ = ["Changes", "File", "Hashed", "changes", "hashed", "source_of"]

# A file may change twice within one tick of the clock of its disk: 2 s for FAT, 1 s for HFS+, some
# milliseconds for others. The time of a file that was changed so shortly before it was read proves nothing.
_TICK_NS = 2_000_000_000
_DOUBT_NS = 1


class File(NamedTuple):
    """A file of a collection.

    Attributes:
        uri: its name in the index: the label of the folder, and its path there.
        folder: the absolute path of the folder.
        name: its path in the folder, with slashes.
        state: its size and time.
    """

    uri: str
    folder: str
    name: str
    state: FileState

    @property
    def path(self) -> Path:
        """Its absolute path."""
        return Path(self.folder, self.name)


@dataclass
class Changes:
    """The files of the folders, compared with the sources of an index by sizes and times.

    Attributes:
        files: uri → size and time of each file.
        folders: absolute path of each folder that was looked at.
        suspects: new files, and files whose size or time is another one. Only their content says more.
        vanished: sources whose files do not exist.
        kept: number of sources whose files are not found, but may exist.
        missing: path of each folder that does not exist, or that has nothing in it, → number of its sources.
        unlisted: path of each folder or file that cannot be looked at → the reason.
        passed_over: kind of what was left out → its number.
        rules: the digest of the rules that decided.
        begun_ns: when the comparison began, in nanoseconds since 1970.
    """

    begun_ns: int
    files: dict[str, FileState] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    suspects: list[File] = field(default_factory=list)
    vanished: list[Source] = field(default_factory=list)
    kept: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    rules: str = ""

    def pending(self, state: State) -> list[File]:
        """The suspects without those that could not be opened the last time and look as they did then."""
        return [
            file
            for file in self.suspects
            if (unread := state.unread.get(file.uri)) is None
            or unread.is_final
            or (unread.n_bytes, unread.modified_ns) != file.state
        ]


@stage("look at the files")
def changes(
    settings: CollectionSettings, sources: Mapping[str, Source], state: State, *, prune: bool = False
) -> Changes:
    """Compare the folders of a collection with the sources of its index. No file is read.

    Args:
        settings: the settings of the collection.
        sources: uri → source.
        state: what the last run has left.
        prune: count all files of a folder that is missing or empty as vanished.
    """
    begun_ns = time.time_ns()
    rules = Rules(settings.exclude, settings.include)
    found = _walked(settings, {**sources, **state.unread}, rules, state.rules)
    if state.rules and found[1] != state.rules:
        # The rules changed: none of the files is known to satisfy them.
        found = _walked(settings, {}, Rules(settings.exclude, settings.include), "")
    walked, digest = found
    result = Changes(begun_ns, rules=digest)
    for label, listed in walked.items():
        _add_files(result, listed, label, settings.folders[label], sources, state)
        result.folders.update(listed.folders)
        result.passed_over.update(listed.passed_over)
    for uri, source in sources.items():
        if uri not in result.files:
            _add_lost(result, source, walked, settings, prune)
    return result


def _walked(
    settings: CollectionSettings, known: Mapping[str, object], rules: Rules, digest: str
) -> tuple[dict[str, FolderFiles], str]:
    """The files of each folder by its label, and the digest of the rules."""
    walked = {}
    for label, folder in settings.folders.items():
        walked[label] = walk(Path(folder), rules, known if digest else (), label=f"{label}/")
    folders = "".join(f"{label}\0{folder}\0" for label, folder in settings.folders.items())
    return walked, hashlib.sha256(f"{rules.digest()}\0{folders}".encode()).hexdigest()


def _add_files(
    result: Changes,
    listed: FolderFiles,
    label: str,
    folder: str,
    sources: Mapping[str, Source],
    state: State,
) -> None:
    """Compare the files of a folder with the sources. This loop is the most frequent one before a search."""
    result.unlisted |= {_readable(Path(folder, place)): reason for place, reason in listed.unlisted.items()}
    files, ending = result.files, f"/{passage_rules()}"
    for name, file_state in listed.files.items():
        uri = f"{label}/{name}"
        if not uri.isascii():
            # On macOS, the letters in file names are decomposed.
            uri = unicodedata.normalize("NFC", uri)
        files[uri] = file_state
        source = sources.get(uri)
        if source is not None:
            is_same = _is_as_read(source, folder, file_state, ending)
        else:
            is_same = uri in state.unread and _is_known_unread(name, file_state, state.unread[uri])
        if not is_same:
            result.suspects.append(File(uri, folder, name, file_state))


def _is_as_read(source: Source, folder: str, state: FileState, ending: str) -> bool:
    return (
        (source.n_bytes, source.modified_ns) == state
        and source.folder == folder
        and source.content_hash is not None
        and source.content_hash.endswith(ending)
    )


def _is_known_unread(name: str, state: FileState, unread: UnreadFile) -> bool:
    if not unread.is_final or (unread.n_bytes, unread.modified_ns) != state:
        return False
    kind = kind_of(name)
    return not (unread.extra and kind and kind.package and find_spec(kind.package))


def _add_lost(
    result: Changes,
    source: Source,
    walked: Mapping[str, FolderFiles],
    settings: CollectionSettings,
    prune: bool,
) -> None:
    """Note a source whose file was not found: it vanished, or it is kept."""
    label, _, name = source.uri.partition("/")
    listed = walked.get(label)
    if listed is None:
        # The folder was removed from the collection.
        result.vanished.append(source)
        return
    if (listed.is_missing or listed.is_empty) and not prune:
        folder = settings.folders[label]
        result.missing[folder] = result.missing.get(folder, 0) + 1
        result.kept += 1
    elif listed.may_have(name):
        result.kept += 1
    else:
        result.vanished.append(source)


@dataclass
class Hashed:
    """What the contents of suspects say.

    Attributes:
        same: names of the files whose content is the same.
        touched: the new sources of those that have another time now.
        moved: uri of a source whose content is in another file now → that file, with its new source.
        is_complete: whether there was enough time.
    """

    same: set[str] = field(default_factory=set)
    touched: list[Source] = field(default_factory=list)
    moved: dict[str, Source] = field(default_factory=dict)
    is_complete: bool = True


def hashed(found: Changes, sources: Mapping[str, Source], *, deadline: float | None = None) -> Hashed:
    """Find the files that were only touched or moved. Only files that may be one of them are read.

    A file was moved if its content is that of a source which does not have it any more.

    Args:
        found: the comparison of sizes and times.
        sources: uri → source.
        deadline: the value of `time.monotonic` to stop at.
    """
    changed = [sources[file.uri] for file in found.suspects if file.uri in sources]
    lost = {source.uri: source for source in (*found.vanished, *changed) if source.content_hash is not None}
    sizes = {source.n_bytes for source in lost.values()}
    result = Hashed()
    others: list[Source] = []
    for file in found.suspects:
        if file.state.n_bytes not in sizes:
            continue
        if deadline is not None and time.monotonic() > deadline:
            result.is_complete = False
            return result
        try:
            source = source_of(file, hash_of_file(file), read_ns=found.begun_ns)
        except OSError:
            # It is reported when it is read.
            continue
        known = lost.get(file.uri)
        if known is not None and known.content_hash == source.content_hash:
            result.same.add(source.uri)
            if source != known:
                result.touched.append(source)
            del lost[file.uri]
        else:
            others.append(source)
    by_content: defaultdict[tuple[str | None, str], list[Source]] = defaultdict(list)
    for source in lost.values():
        by_content[source.content_hash, _suffix(source.uri)].append(source)
    for source in others:
        if candidates := by_content[source.content_hash, _suffix(source.uri)]:
            old = next((c for c in candidates if _name(c.uri) == _name(source.uri)), candidates[0])
            candidates.remove(old)
            result.moved[old.uri] = source
    return result


def _suffix(uri: str) -> str:
    # The same bytes are cut in another way in a file of another kind.
    return PurePosixPath(uri).suffix.lower() or _name(uri)


def _name(uri: str) -> str:
    return PurePosixPath(uri).name


def hash_of_file(file: File) -> str:
    """The hash of a file, as sources have it.

    Raises:
        OSError: if it cannot be read, or is not in its folder.
    """
    with os.fdopen(open_in(file.folder, file.path), "rb") as stream:
        return content_hash(hashlib.file_digest(stream, "sha256").hexdigest())


def is_in_doubt(source: Source, file: File) -> bool:
    """Whether all that speaks for a change is that the file had changed just before it was read."""
    n_bytes, modified_ns = file.state
    recorded = FileState(n_bytes, modified_ns - _DOUBT_NS)
    return _is_as_read(source, file.folder, recorded, f"/{passage_rules()}")


def source_of(file: File, digest: str, *, read_ns: int) -> Source:
    """The source for a file.

    Args:
        file: the file, as it was before it was read.
        digest: the hash of its content.
        read_ns: when the state was read, or before, in nanoseconds since 1970.
    """
    n_bytes, modified_ns = file.state
    if modified_ns > read_ns - _TICK_NS:
        # A later change may leave the same time, so record another one. Then the next run reads it again.
        modified_ns -= _DOUBT_NS
    return Source(file.uri, file.folder, digest, modified_ns, n_bytes)


def _readable(path: Path) -> str:
    """A path as JSON can have it: a byte that is not UTF-8 is written as a number."""
    return str(path).encode(errors="backslashreplace").decode()
