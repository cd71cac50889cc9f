"""The collections that a server may show. An assistant can name no other, and no path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Place, Registry
from mlx_colbert.errors import ColBERTError, CollectionNotFoundError

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["Opened", "Served"]


class Opened(NamedTuple):
    """Collections that are open.

    Attributes:
        collections: the collections.
        notes: why others could not be opened, a sentence each.
    """

    collections: list[Collection]
    notes: list[str]


@dataclass(frozen=True)
class Served:
    """The collections that a server may show.

    Attributes:
        names: their names, as for `Registry.find`. Empty: all, also those that are made later.
        near: without names, also the collection beside the files of this folder.
        registry: where the collections are.
        backend: the kernels for searches and for the models.
    """

    names: tuple[str, ...] = ()
    near: Path | None = None
    registry: Registry = field(default_factory=Registry)
    backend: Backend = "auto"

    def places(self, names: Sequence[str] = ()) -> list[Place]:
        """Where these collections are.

        Args:
            names: names in any case. Empty: all that the server may show.

        Raises:
            CollectionNotFoundError: if one is not among those that the server may show, or there is none.
        """
        if self.names:
            known = list({place.path: place for place in map(self.registry.find, self.names)}.values())
        else:
            known = self.registry.list(near=self.near)
        if not known:
            raise CollectionNotFoundError(
                "", "There is no collection yet. The user can make one: mlx-colbert sync FOLDER."
            )
        found = {}
        for name in names:
            same = [place for place in known if place.name.casefold() == name.casefold()]
            if not same:
                listed = ", ".join(sorted(place.name for place in known))
                raise CollectionNotFoundError(name, f"does not exist here. There are: {listed}.")
            found.update({place.path: place for place in same})
        return list(found.values()) or known

    @contextmanager
    def opened(self, names: Sequence[str] = ()) -> Iterator[Opened]:
        """A block that has these collections open. Without names, one that cannot be opened gives a note.

        Raises:
            CollectionNotFoundError: as `places`.
            ConfigError: if the settings of one that is named, or of all, are not valid.
        """
        with ExitStack() as stack:
            collections: list[Collection] = []
            notes: list[str] = []
            places = self.places(names)
            for number, place in enumerate(places, start=1):
                try:
                    collections.append(stack.enter_context(Collection(place, backend=self.backend)))
                except ColBERTError as error:
                    if names or (number == len(places) and not collections):
                        raise
                    notes.append(f"Left out: {error}")
            yield Opened(collections, notes)
