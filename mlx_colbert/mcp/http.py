"""The server for HTTP: an application that another one mounts."""

from __future__ import annotations

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

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

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        # Without sessions there is nothing to wait for in a stream that a GET opens, or to end by a DELETE.
        if scope["type"] == "http" and scope["method"] != "POST":
            refusal = PlainTextResponse("Send a POST.\n", 405, {"allow": "POST"})
            await refusal(scope, receive, send)
        else:
            await manager.handle_request(scope, receive, send)

    return Starlette(routes=[Mount("/", answer)], lifespan=lambda app: manager.run())
