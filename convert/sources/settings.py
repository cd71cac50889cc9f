"""Reads the settings files that ColBERT libraries write beside a backbone, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_colbert.convert.problems import Problems
from mlx_colbert.untrusted import shown

__all__ = ["Settings"]


class Settings:
    """A JSON object of an untrusted file. Values of a wrong type become problems."""

    def __init__(self, values: Mapping[str, Any], file: str, problems: Problems) -> None:
        self.values: Mapping[str, Any] = values
        self.file: str = file
        self.problems: Problems = problems

    def _complain(self, key: str, wanted: str) -> None:
        self.problems.append(f"{self.file}: {key!r} must be {wanted}, got {shown(self.values[key])}")

    def length(self, key: str) -> int | None:
        """A number of tokens, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 3:
            self._complain(key, "a number of tokens, at least 3")
            return None
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._complain(key, "true or false")
        return bool(value)

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self._complain(key, "a string")
            return default
        return value

    def words(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of strings."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self._complain(key, "a list of strings")
            return default
        return tuple(value)

    def only(self, known: frozenset[str]) -> None:
        """Report every other key that has a value."""
        for key in sorted(set(self.values) - known):
            if self.values[key] not in (None, {}, []):
                self.problems.unknown(self.file, key, self.values[key])
