"""The folders of this package for one user: the one place that asks the system for them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["config_folder", "data_folder", "expanded", "here", "runtime_folder"]

HOME_VARIABLE = "MLX_COLBERT_HOME"

_NAME = "mlx-colbert"


def _home() -> Path | None:
    """The folder of MLX_COLBERT_HOME, which then has everything."""
    given = os.environ.get(HOME_VARIABLE)
    return expanded(given).absolute() if given else None


def expanded(path: str | Path) -> Path:
    """A path with the folder of a user in the place of `~`. A path of a user who does not exist stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser fails where there is no such user


def here() -> Path | None:
    """The current folder. None: it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def data_folder() -> Path:
    """The folder of the collections. It may not exist."""
    if home := _home():
        return home
    from platformdirs import user_data_path

    return user_data_path(_NAME, False)


def config_folder() -> Path:
    """The folder of the configuration file. It may not exist."""
    if home := _home():
        return home
    from platformdirs import user_config_path

    return user_config_path(_NAME, False)


def runtime_folder() -> Path:
    """The folder of the daemon's socket. It may not exist.

    Without XDG_RUNTIME_DIR it is in the user's cache folder, and not in /tmp: there another user could make
    it first.
    """
    if home := _home():
        return home / "run"
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given, _NAME)
    from platformdirs import user_cache_path

    return user_cache_path(_NAME, False) / "run"
