"""The collections that a server may show. An assistant can name no other, and no path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.collection.choosing import opened
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.registry import Registry
from mlx_colbert.errors import CollectionNotFoundError

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["Served"]


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

    def opened(
        self, names: Sequence[str], on_left_out: Callable[[str], object]
    ) -> AbstractContextManager[list[Collection]]:
        """A block that has these collections open.

        Args:
            names: as for `places`.
            on_left_out: called with a sentence for each one that cannot be opened, if none was named.

        Raises:
            CollectionNotFoundError: as `places`.
            ConfigError: if the settings of one that is named, or of all, are not valid.
        """
        wanted = self.places(names)
        chosen = [str(place.beside or place.name) for place in wanted] if names or self.names else []
        return opened(self.registry, chosen, near=self.near, backend=self.backend, on_left_out=on_left_out)
