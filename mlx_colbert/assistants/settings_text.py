"""Our entry in the text of a file of settings."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlx_colbert.assistants.formats import FormatError
from mlx_colbert.assistants.hosts import Host
from mlx_colbert.assistants.settings_file import SettingsFile
from mlx_colbert.assistants.skill import NAME
from mlx_colbert.errors import AssistantError

__all__ = ["SettingsText"]


@dataclass(frozen=True)
class SettingsText:
    """The text of a file of settings, in which a program has entries of servers.

    Attributes:
        file: the file.
        mark: its byte order mark, or nothing.
        text: what follows.
    """

    file: SettingsFile
    mark: bytes
    text: str

    @classmethod
    def read(cls, file: SettingsFile, data: bytes | None) -> SettingsText:
        """The text of what a file has. It is empty if there is no file.

        Raises:
            AssistantError: if it is not UTF-8.
        """
        data = data or b""
        mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
        try:
            return cls(file, mark, data[len(mark) :].decode())
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 (byte {error.start + len(mark):,}). Save it as UTF-8."
            raise AssistantError(file.path, reason) from None

    def find(self, host: Host) -> tuple[tuple[str, ...], dict[str, Any] | None]:
        """Where our entry is or would be, and the entry. None: it is not there.

        Raises:
            AssistantError: if the text is not valid.
        """
        places = [(*place, NAME) for place in host.places]
        containers = {place: self._value(host, place[:-1]) for place in places}
        for place, container in containers.items():
            if isinstance(container, dict) and NAME in container:
                found = self._value(host, place)
                if not isinstance(found, dict):
                    reason = f"the value of {'.'.join(place)} is not the entry of a server. Remove it."
                    raise AssistantError(self.file.path, reason)
                return place, found
        for place, container in containers.items():
            # A server may have the name "servers". Then it is not the place for servers.
            if isinstance(container, dict) and not isinstance(container.get("type"), str):
                return place, None
        return places[-1], None

    def put(self, host: Host, keys: Sequence[str], entry: Mapping[str, Any]) -> bytes:
        """The bytes of the file with an entry.

        Raises:
            AssistantError: if the text is not valid, or the entry cannot be there.
        """
        try:
            return self.mark + host.format.put(self.text, keys, entry).encode()
        except FormatError as error:
            raise AssistantError(self.file.path, str(error)) from None

    def without(
        self, host: Host, keys: Sequence[str], entry: Mapping[str, Any], backup: bytes | None
    ) -> bytes | None:
        """The bytes of the file without our entry. None: there is to be no file.

        Args:
            host: the program.
            keys: where the entry is.
            entry: the entry.
            backup: the file as it was without it. None: there was none, or nobody knows.

        Raises:
            AssistantError: if the entry cannot be taken out.
        """
        n_kept = len(keys) - 1
        # A backup that cannot be read does not tell which keys were there before.
        with suppress(AssistantError):
            before = SettingsText.read(self.file, backup)
            if before.put(host, keys, entry) == self.mark + self.text.encode():
                return backup
            if backup is not None:
                n_kept = sum(before._value(host, keys[:n]) is not None for n in range(1, len(keys)))
        try:
            return self.mark + host.format.remove(self.text, keys, n_kept=n_kept).encode()
        except FormatError as error:
            raise AssistantError(self.file.path, str(error)) from None

    def _value(self, host: Host, keys: Sequence[str]) -> Any:
        try:
            return host.format.value(self.text, keys)
        except FormatError as error:
            raise AssistantError(self.file.path, str(error)) from None
