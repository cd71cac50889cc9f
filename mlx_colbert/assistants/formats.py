"""What a format of settings must be able to do: change one entry, and leave every other byte as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["Format", "FormatError"]


class FormatError(ValueError):
    """A text that cannot be read, or in which the entry cannot be changed. The message is a sentence."""


class Format(Protocol):
    """The module of a format. A path of keys leads from the whole text to the entry."""

    def value(self, text: str, keys: Sequence[str]) -> Any:
        """The value at a path. None: it is not there.

        Raises:
            FormatError: if the text is not valid, or has a key of the path twice.
        """

    def put(self, text: str, keys: Sequence[str], entry: Mapping[str, Any]) -> str:
        """The text with an entry at a path. What is missing on the way is added.

        Raises:
            FormatError: if the text is not valid, or the entry cannot be there.
        """

    def remove(self, text: str, keys: Sequence[str], *, n_kept: int) -> str:
        """The text without the entry at a path.

        Args:
            text: a text that has it.
            keys: the path.
            n_kept: so many keys of the path stay, even if nothing is left in them.

        Raises:
            FormatError: if the text is not valid, or the entry cannot be taken out.
        """
