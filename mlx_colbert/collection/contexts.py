"""Sentences of the user about folders and files. They are shown with hits, and given to assistants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.errors import InputError

__all__ = ["context_key", "set_context"]

# The longest sentence. It is part of prompts.
MAX_CHARACTERS = 1000


def context_key(registry: Registry, path: str, *, name: str | None = None) -> tuple[Collection, str]:
    """The collection that a path belongs to, and the path as its contexts have it.

    Args:
        registry: where the collections are.
        path: a file or a folder. With a name also "/", which is the whole collection, or a name of the index
            such as "notes/minutes".
        name: the name of the collection. None: the one that the path belongs to.

    Raises:
        InputError: if the path is not in a folder of a collection.
        CollectionNotFoundError: if there is no collection with this name.
    """
    place = registry.containing(Path(path)) if name is None else registry.find(name)
    if place is None:
        raise InputError(f"{path}: is not in a folder of a collection. Run mlx-colbert sync FOLDER first.")
    collection = Collection(place)
    if name is not None and path == "/":
        return collection, "/"
    key = collection.settings.uri_of(Path(path))
    if key is None and name is not None and collection.settings.path_of(path) is not None:
        key = path.strip("/")
    if key is None:
        folders = ", ".join(collection.settings.folders.values())
        raise InputError(f"{path}: is not in a folder of collection {place.name}: {folders}.")
    return collection, key


def set_context(
    registry: Registry, path: str, sentence: str | None, *, name: str | None = None
) -> tuple[Collection, str]:
    """Set or remove the sentence about a file or a folder; returns the collection and the path in it.

    Args:
        registry: as for `context_key`.
        path: as for `context_key`.
        sentence: the sentence. None removes it.
        name: as for `context_key`.

    Raises:
        InputError: if the path is in no collection, the sentence is blank or too long, or there is none to
            remove.
        CollectionError: if the settings are beside files and the user does not trust them.
    """
    collection, key = context_key(registry, path, name=name)
    text = None if sentence is None else " ".join(sentence.split())
    if text is not None and not 1 <= len(text) <= MAX_CHARACTERS:
        raise InputError(f"the sentence has {len(text):,} characters. Give 1 to {MAX_CHARACTERS:,}.")

    def edit(settings: CollectionSettings) -> CollectionSettings:
        contexts = dict(settings.contexts)
        if text is not None:
            contexts[key] = text
        elif contexts.pop(key, None) is None:
            raise InputError(f"{key}: has no sentence in collection {collection.name}.")
        return replace(settings, contexts=contexts)

    collection.settings = registry.change(collection.place, edit)
    return collection, key
