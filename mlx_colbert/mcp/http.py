"""The server for HTTP: an application that another one mounts."""

from __future__ import annotations

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.routing import Mount

from mlx_colbert.mcp.server import Backing, make_server

__all__ = ["make_mcp_app"]

_HERE = ("127.0.0.1", "localhost", "[::1]")


def make_mcp_app(backing: Backing, *, is_guarded: bool = False) -> Starlette:
    """The application, for any path. Its lifespan must be entered.

    It has no sessions: each request stands alone, so a host goes on after the server was started again.

    Args:
        backing: what it works with.
        is_guarded: the application around it has checked the Host header and the origin. False: only those of
            this machine are served.
    """
    server = make_server(backing)
    server.streamable_http_app(
        stateless_http=True,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=not is_guarded,
            allowed_hosts=[*_HERE, *(f"{name}:*" for name in _HERE)],
            allowed_origins=[f"http://{name}{port}" for name in _HERE for port in ("", ":*")],
        ),
    )
    manager = server.session_manager
    return Starlette(routes=[Mount("/", manager.handle_request)], lifespan=lambda app: manager.run())
