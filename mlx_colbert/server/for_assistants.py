"""The part of the application that assistants speak to: the Model Context Protocol at `/mcp`."""

from __future__ import annotations

from starlette.applications import Starlette

from mlx_colbert.engine.engine import Engine
from mlx_colbert.engine.jobs import Jobs
from mlx_colbert.errors import MissingExtraError

__all__ = ["for_assistants"]


def for_assistants(engine: Engine, jobs: Jobs, *, may_write: bool) -> dict[str, Starlette]:
    """The application for assistants by its path. There is none without the extra [mcp].

    Args:
        engine: it runs the calls.
        jobs: runs the syncs.
        may_write: whether an assistant may bring collections in step.

    Raises:
        MissingExtraError: if they may, and the extra is not installed.
    """
    try:
        from mlx_colbert.mcp.http import make_mcp_app
        from mlx_colbert.mcp.served import Served
        from mlx_colbert.mcp.server import Backing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "mlx_colbert":
            raise
        if may_write:
            raise MissingExtraError("--mcp-allow-write", "mcp") from error
        return {}
    # Only the collections of the user: the current folder of this process changes.
    backing = Backing(engine, Served(), may_write=may_write, jobs=jobs)
    return {"/mcp": make_mcp_app(backing, is_guarded=True)}
