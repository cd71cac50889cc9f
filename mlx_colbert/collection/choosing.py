"""Which collections a call is about: those of the folders that are given, by name, or all."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.opened_index import is_made_with
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import DEFAULT_MODEL, CollectionSettings
from mlx_colbert.errors import (
    ColBERTError,
    CollectionNotFoundError,
    IndexNotFoundError,
    InputError,
    ModelMismatchError,
    message_of,
)
from mlx_colbert.index import Index
from mlx_colbert.model.kept import keeping

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["Wanted", "chosen", "opened"]


@dataclass(frozen=True)
class Wanted:
    """What a caller wants to have in the settings of collections. None: as they are.

    Attributes:
        model: a hub id or the path of a model folder.
        include: patterns of files to read.
        exclude: patterns of files and folders to leave out.
    """

    model: str | None = None
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None

    def applied(self, settings: CollectionSettings) -> CollectionSettings:
        """The settings with these values."""
        values: dict[str, Any] = {key: value for key, value in vars(self).items() if value is not None}
        if "model" in values and Path(values["model"]).is_dir():
            values["model"] = os.path.realpath(values["model"])
        return replace(settings, **values)


def chosen(
    registry: Registry,
    folders: Sequence[str | Path] = (),
    *,
    name: str | None = None,
    wanted: Wanted | None = None,
    local: bool = False,
    near: Path | None = None,
    dry_run: bool = False,
    rebuild: bool = False,
    model: str = DEFAULT_MODEL,
    on_taken: Callable[[str], object] | None = None,
) -> list[Place]:
    """The collections of folders. They are made if there are none, and their settings are written.

    Args:
        registry: where the collections are.
        folders: folders. Without a name, each of them that is in no collection becomes one. With a name, all
            become folders of that collection. None: the collection with the name, or all collections.
        name: the name of a collection.
        wanted: what to change in the settings.
        local: make the collections beside their files, in `.mlx-colbert/`.
        near: without folders and name, also the collection beside the files of this folder.
        dry_run: write nothing.
        rebuild: the indexes will be made again, so the wanted model may be another one than theirs.
        model: the model of a new collection, if none is wanted.
        on_taken: called with a sentence if a new collection cannot have the name of its folder.

    Raises:
        InputError: if it is not a folder, or the name is not valid.
        CollectionNotFoundError: without folders, if there is no collection with the name, or none at all.
        CollectionError: if settings beside files must change and the user does not trust them.
        ModelMismatchError: without `rebuild`, if an index was made with another model than the wanted one.
            No settings are written.
        IndexStoreError: if a model is wanted and an index cannot be used.
    """
    wanted, new = wanted or Wanted(), Wanted(model).applied(CollectionSettings())
    paths = [_checked(folder) for folder in folders]
    if local and (name is not None or not paths):
        raise InputError("local needs folders and no name: a collection beside its files has their name.")
    if not paths:
        places = registry.list(near=near) if name is None else [registry.find(name)]
        if not places:
            raise CollectionNotFoundError(
                "", "There is no collection yet. Make one: mlx-colbert sync FOLDER."
            )
        _check_models(places, wanted, rebuild)
        return [_changed(registry, place, (), wanted, dry_run=dry_run) for place in places]
    if name is not None:
        try:
            place = registry.find(name)
        except CollectionNotFoundError:
            return [_made(registry, paths, name, wanted.applied(new), local=False, dry_run=dry_run)]
        _check_models([place], wanted, rebuild)
        return [_changed(registry, place, paths, wanted, dry_run=dry_run)]
    # All of them before the first is written.
    _check_models(filter(None, map(registry.containing, paths)), wanted, rebuild)
    found: dict[Path, Place] = {}
    for path in paths:
        place_or_none = registry.containing(path)
        if place_or_none is None:
            place = _made(
                registry, [path], None, wanted.applied(new), local=local, dry_run=dry_run, on_taken=on_taken
            )
        else:
            place = _changed(registry, place_or_none, (), wanted, dry_run=dry_run)
        found[place.path] = place
    return list(found.values())


@contextmanager
def opened(
    registry: Registry,
    names: Sequence[str] = (),
    *,
    near: Path | None = None,
    backend: Backend = "auto",
    on_left_out: Callable[[str], object],
) -> Iterator[list[Collection]]:
    """A block that has the collections with these names, or all of them. Each model is loaded once.

    Args:
        registry: where the collections are.
        names: their names. None: all.
        near: also the collection beside the files of this folder, and a name may be a path. None: only those
            of the user, by their names.
        backend: the kernels for searches and for models.
        on_left_out: called with a sentence for each one that cannot be opened, if no names are given.

    Raises:
        CollectionNotFoundError: if one of them does not exist, or there is none.
        ConfigError: if the settings of one of them, or of all, are not valid.
    """
    find = registry.named if near is None else registry.find
    if names:
        places = list({place.path: place for place in map(find, names)}.values())
    else:
        places = chosen(registry, near=near)
    with keeping(), ExitStack() as stack:
        collections: list[Collection] = []
        for number, place in enumerate(places, start=1):
            try:
                collections.append(stack.enter_context(Collection(place, backend=backend)))
            except (ColBERTError, OSError) as error:
                if names or (number == len(places) and not collections):
                    raise
                on_left_out(f"Left out: {message_of(error)}")
        yield collections


def _checked(folder: str | Path) -> Path:
    path = Path(folder)
    if not path.is_dir():
        hint = "It is not a folder" if path.exists() else "There is no such folder"
        raise InputError(f"{path}: {hint}. Give a folder of files.")
    return path


def _check_models(places: Iterable[Place], wanted: Wanted, rebuild: bool) -> None:
    """Raise an error if an index was made with another model than the wanted one, and is not made again."""
    if wanted.model is None or rebuild:
        return
    for place in places:
        if not place.is_trusted:
            # Its settings are not changed.
            continue
        old = place.settings()
        new = wanted.applied(old)
        if new.model == old.model:
            continue
        with suppress(IndexNotFoundError), Index.open(place.index_path, backend="numpy") as index:
            if not is_made_with(index, new.model):
                recorded = (index.model or {}).get("source")
                raise ModelMismatchError(
                    place.index_path,
                    f"was made with the model {recorded!r}, not with {new.model!r}. Nothing was changed. "
                    f"To make it again: mlx-colbert sync --name {shlex.quote(place.name)} "
                    f"--model {shlex.quote(new.model)} --rebuild",
                )


def _made(
    registry: Registry,
    folders: Sequence[Path],
    name: str | None,
    settings: CollectionSettings,
    *,
    local: bool,
    dry_run: bool,
    on_taken: Callable[[str], object] | None = None,
) -> Place:
    """A new collection of folders."""
    for folder in folders:
        settings = settings.with_folder(folder)
    if dry_run:
        name = name or (next(iter(settings.folders)) if local else registry.free_name(settings, on_taken))
        return Place(name, registry.home / "collections" / name, given=settings)
    if local:
        place = registry.create_local(folders[0], settings)
    else:
        place = registry.create(settings, name, on_taken=on_taken)
    return replace(place, is_new=True)


def _changed(
    registry: Registry, place: Place, folders: Sequence[Path], wanted: Wanted, *, dry_run: bool
) -> Place:
    """A collection with more folders, and with what is wanted."""
    if not folders and wanted == Wanted():
        # Its settings may be wrong. That is told when they are used.
        return place

    def edit(settings: CollectionSettings) -> CollectionSettings:
        settings = wanted.applied(settings)
        for folder in folders:
            settings = settings.with_folder(folder)
        return settings

    old = place.settings()
    new = edit(old)
    if new == old:
        return place
    if dry_run:
        return replace(place, given=new)
    registry.change(place, edit)
    return place
