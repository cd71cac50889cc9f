"""The folders of this package for one user: the one place that asks the system for them."""

# pathlib takes longer to import than a client of the daemon works.
# ruff: noqa: PTH109, PTH111, PTH117, PTH118

from __future__ import annotations

import os

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["config_folder", "data_folder", "expanded", "here", "runtime_path"]

HOME_VARIABLE = "MLX_COLBERT_HOME"

_NAME = "mlx-colbert"


def _home() -> str | None:
    """The folder of MLX_COLBERT_HOME, which then has everything."""
    given = os.environ.get(HOME_VARIABLE)
    if not given:
        return None
    path = os.path.expanduser(given)
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def expanded(path: str | Path) -> Path:
    """A path with the folder of a user in the place of `~`. A path of a user who does not exist stays."""
    from pathlib import Path

    # Path.expanduser fails where there is no such user.
    return Path(os.path.expanduser(path))


def here() -> Path | None:
    """The current folder. None: it was removed."""
    from pathlib import Path

    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def data_folder() -> Path:
    """The folder of the collections. It may not exist."""
    if home := _home():
        return expanded(home)
    from platformdirs import user_data_path

    return user_data_path(_NAME, False)


def config_folder() -> Path:
    """The folder of the configuration file. It may not exist."""
    if home := _home():
        return expanded(home)
    from platformdirs import user_config_path

    return user_config_path(_NAME, False)


def runtime_path() -> str:
    """The path of the folder of the daemon's socket. It may not exist.

    Without XDG_RUNTIME_DIR it is in the user's cache folder, and not in /tmp: there another user could make
    it first.
    """
    if home := _home():
        return f"{home.rstrip('/')}/run"
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return f"{given.rstrip('/')}/{_NAME}"
    from platformdirs import user_cache_dir

    return f"{user_cache_dir(_NAME, False)}/run"
