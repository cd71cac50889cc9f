"""Serves the application in a thread, until it is told to stop."""

from __future__ import annotations

import logging
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from mlx_colbert.errors import ServerError
from mlx_colbert.server.connection import guarded
from mlx_colbert.server.security import is_loopback
from mlx_colbert.server.settings import Settings

__all__ = ["listening", "serving", "url_of"]

# Seconds to finish what was accepted.
_FINISH_S = 10
# Bytes of the headers of a request.
_HEAD_BYTES = 32 << 10


def listening(settings: Settings) -> socket.socket:
    """A socket at the address of the settings.

    Raises:
        ServerError: if another program has the port, or this machine does not have the address.
    """
    if settings.api_key is None and not is_loopback(settings.host):
        raise ServerError(
            settings.host,
            "other machines could ask, so a key is needed. Give --api-key-file, or leave out --host.",
        )
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServerError(settings.host, f"is no address of this machine: {error}") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        where = f"{settings.host}, port {settings.port}"
        raise ServerError(where, f"{error.strerror}. Choose another port; 0 takes a free one.") from error
    return listening


def url_of(listening: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow_files(n_connections: int) -> None:
    """Let this process have a file for each connection, and for its indexes. macOS allows 256 at first."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_connections + 1024
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextmanager
def serving(app: FastAPI, settings: Settings, listening: socket.socket) -> Iterator[None]:
    """A block in which the application answers in another thread. At its end, what was accepted is finished.

    Args:
        app: the application.
        settings: those that the application was made with.
        listening: the socket. It is closed at the end.
    """
    _allow_files(settings.limits.n_connections)
    # Their lines about connections say nothing that the log of the application does not, and they would be
    # printed where the command of a client prints.
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=guarded(settings.limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_FINISH_S,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="mlx-colbert-http")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        if not server.started:
            raise ServerError(url_of(listening), "does not start.")
        yield
    finally:
        # Streams of events about jobs end with them, and a stream that goes on would be cut off.
        app.state.jobs.stop()
        server.should_exit = True
        thread.join()
