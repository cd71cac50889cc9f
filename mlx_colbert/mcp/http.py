"""The server for HTTP: an application that another one mounts."""

from __future__ import annotations

from collections.abc import Sequence

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from mlx_colbert.mcp.server import Backing, make_server

__all__ = ["make_mcp_app"]


def make_mcp_app(
    backing: Backing, *, allowed_hosts: Sequence[str] = (), allowed_origins: Sequence[str] = ()
) -> Starlette:
    """The application, for the path that it is mounted at. Its lifespan must be entered.

    It has no sessions: each request stands alone, so a host goes on after the server was started again.

    Args:
        backing: what it works with.
        allowed_hosts: values of the Host header that are served beside those of this machine, with ":*" for
            any port.
        allowed_origins: values of the Origin header that are served beside those of this machine.
    """
    here = ["127.0.0.1", "localhost", "[::1]"]
    hosts = [*here, *(f"{name}:*" for name in here), *allowed_hosts]
    origins = [f"http://{name}" for name in here] + [f"http://{name}:*" for name in here] + [*allowed_origins]
    return make_server(backing).streamable_http_app(
        streamable_http_path="/",
        stateless_http=True,
        transport_security=TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins),
    )
