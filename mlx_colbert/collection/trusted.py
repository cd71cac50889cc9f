"""Which settings beside files the user trusts: a file with the hashes of these settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mlx_colbert.collection.files import write_file
from mlx_colbert.collection.settings import settings_bytes
from mlx_colbert.regular_files import read_regular

__all__ = ["TRUSTED_NAME", "record_trusted", "settings_if_trusted", "write_trusted"]

TRUSTED_NAME = "trusted.json"
# A line for each of 50,000 collections. A larger file is damaged.
_MOST_BYTES = 16 << 20


def settings_if_trusted(trusted_path: Path, settings_path: Path) -> bytes | None:
    """The bytes of settings beside files. None: the user does not trust them.

    Args:
        trusted_path: the file with the hashes.
        settings_path: the file of the settings.

    Raises:
        OSError: if they cannot be read.
    """
    data, before = settings_bytes(settings_path), None
    # Another process may write both files between the reading of one and the other.
    while data != before:
        if _digest(data) in _read(trusted_path).get(_key(settings_path), []):
            return data
        data, before = settings_bytes(settings_path), data
    return None


def record_trusted(trusted_path: Path, settings_path: Path, data: bytes) -> None:
    """Trust settings as they are now, and no others at this place. Call this with `shared_lock`.

    Raises:
        OSError: if this cannot be written.
    """
    _write(trusted_path, settings_path, [_digest(data)])


def write_trusted(trusted_path: Path, settings_path: Path, data: bytes) -> None:
    """Write settings, and trust them. Call this with `shared_lock`.

    Whoever reads meanwhile, or after this was killed, finds the old or the new ones, and both are trusted.

    Raises:
        OSError: if this cannot be written.
    """
    old = _read(trusted_path).get(_key(settings_path), [])
    _write(trusted_path, settings_path, [*old[:2], _digest(data)])
    write_file(settings_path, data)
    _write(trusted_path, settings_path, [_digest(data)])


def _key(settings_path: Path) -> str:
    return str(settings_path.parent)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(trusted_path: Path) -> dict[str, list[str]]:
    """Folder of a collection beside files → the hashes of the settings that are trusted.

    There are two or three while settings are being written, or after this was killed.
    """
    try:
        values = json.loads(read_regular(trusted_path, _MOST_BYTES, follow_links=True))
        return {str(place): str(digests).split() for place, digests in values.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _write(trusted_path: Path, settings_path: Path, digests: Sequence[str]) -> None:
    known = {**_read(trusted_path), _key(settings_path): digests}
    values = {place: " ".join(digests) for place, digests in known.items()}
    write_file(trusted_path, json.dumps(values, indent=1).encode())
