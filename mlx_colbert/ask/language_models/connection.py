"""HTTP to a language model server: no proxy, no redirect, and a limit for everything that it sends."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

from mlx_colbert.errors import InputError, LanguageModelError, said

__all__ = ["Address", "Body", "ask_json", "opened", "parse_address"]

# Seconds.
CONNECT_S = 10.0
# A whole answer that is not streamed: a list of models, a count of tokens.
ANSWER_S = 30.0
MAX_BODY_BYTES = 8 << 20
_MAX_REASON = 300


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        scheme: "http" or "https".
        host: its name or number.
        port: its port.
        path: what comes before "/chat/completions"; "/v1" mostly.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return _is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_address(url: str) -> Address:
    """The address in a URL. On this machine "localhost:1234" is enough.

    Raises:
        InputError: if it is not a URL of a server, or a server elsewhere is not named in full.

    >>> str(parse_address("localhost:1234"))
    'http://localhost:1234/v1'
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InputError(f"endpoint {url!r:.200} is not a URL: {said(error)}.") from None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise InputError(f"endpoint {url!r:.200} is not a URL, as http://localhost:1234/v1 is.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # Not the URL itself: it may have a secret.
        raise InputError(
            f"the endpoint at {host} has a user, a query or a fragment in its URL. "
            "Give the URL alone, and a key in MLX_COLBERT_API_KEY."
        )
    if "://" not in url and not _is_loopback(host):
        raise InputError(
            f"endpoint {url!r:.200} is not on this machine. Your passages would go there. "
            f"If you want this, name it in full: https://{url}"[:400]
        )
    port = port if port is not None else 443 if parts.scheme == "https" else 80
    return Address(parts.scheme, host, port, parts.path.rstrip("/") or "/v1")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Body:
    """The bytes of an answer as they come, within limits."""

    def __init__(self, response: http.client.HTTPResponse, connection_socket: socket.socket) -> None:
        self._response = response
        self._socket = connection_socket

    def read_some(self, deadline: float) -> bytes:
        """The next bytes, up to 64 KiB. Empty: there are no more.

        Raises:
            TimeoutError: if none come before the deadline, a time of `time.monotonic`.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._response.read1(1 << 16)

    def read_all(self, deadline: float, limit: int = MAX_BODY_BYTES) -> bytes:
        """All bytes, up to `limit`.

        Raises:
            TimeoutError: if they do not come before the deadline.
            ValueError: if there are more.
        """
        parts = bytearray()
        while piece := self.read_some(deadline):
            parts += piece
            if len(parts) > limit:
                raise ValueError(f"more than {limit:,} bytes")
        return bytes(parts)


@contextmanager
def opened(
    address: Address,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    key: str | None = None,
    connect_s: float = CONNECT_S,
    answer_s: float = ANSWER_S,
) -> Iterator[tuple[http.client.HTTPResponse, Body]]:
    """An answer with status 200, and its bytes. Leaving the context ends the connection.

    Args:
        address: the server.
        method: "GET" or "POST".
        path: the whole path.
        body: the JSON object to send.
        key: the key for the server.
        connect_s: seconds to wait for the connection.
        answer_s: seconds to wait for the first line of the answer.

    Raises:
        LanguageModelError: if the server cannot be reached or gives another answer, while the context lasts
            too. The error says why.
    """
    # http.client uses no proxy and follows no redirect.
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=connect_s)
    headers = {"Accept": "application/json, text/event-stream", "Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    sent = None
    if body is not None:
        # A lone surrogate has no UTF-8.
        sent = json.dumps(body, ensure_ascii=True).encode()
        headers["Content-Type"] = "application/json"
    try:
        connection.connect()
        connection_socket = connection.sock
        connection_socket.settimeout(answer_s)
        connection.request(method, path, sent, headers)
        # The response, not the connection, has the socket from now on.
        with closing(connection.getresponse()) as response:
            reader = Body(response, connection_socket)
            if response.status != 200:
                _refuse(address, path, response, reader)
            yield response, reader
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LanguageModelError(str(address), _reason(error)) from error
    finally:
        connection.close()


def ask_json(
    address: Address,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    key: str | None = None,
) -> dict[str, Any]:
    """The JSON object that a server answers.

    Raises:
        LanguageModelError: if there is none.
    """
    with opened(address, method, path, body, key=key) as (_, reader):
        found = parsed_object(reader.read_all(time.monotonic() + ANSWER_S))
    if found is None:
        raise LanguageModelError(str(address), f"{path} does not answer with a JSON object.")
    return found


def parsed_object(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object of a text. None: it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def told_reason(told: dict[str, Any] | None) -> str:
    """What an error object of a server says, in one short line. Empty: nothing."""
    reason = (told or {}).get("error") or (told or {}).get("message") or (told or {}).get("detail")
    if isinstance(reason, dict):
        reason = reason.get("message")
    line = " ".join(reason.split()) if isinstance(reason, str) else ""
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 1]}…"


def _refuse(address: Address, path: str, response: http.client.HTTPResponse, reader: Body) -> NoReturn:
    status = response.status
    if 300 <= status < 400:
        target = response.getheader("Location") or "elsewhere"
        reason = f"it sends the request on to {target!r:.200}. Refused: name the right endpoint yourself."
        raise LanguageModelError(str(address), reason)
    try:
        said = told_reason(parsed_object(reader.read_all(time.monotonic() + 5, limit=1 << 16)))
    except (OSError, http.client.HTTPException, ValueError):
        said = ""
    said = f": {said}" if said else ""
    if status in (401, 403):
        reason = f"it needs another key (status {status}{said}). Set MLX_COLBERT_API_KEY."
    elif status == 404:
        reason = (
            f"it has no such model, or no {path} (status 404{said}). Check the URL and the name of the model."
        )
    else:
        reason = f"it failed with status {status}{said}."
    raise LanguageModelError(str(address), reason)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there. Start the server, or check the port."
    if isinstance(error, socket.gaierror):
        return f"there is no such host ({error.strerror})."
    if isinstance(error, TimeoutError):
        return "it does not answer in time."
    if isinstance(error, ssl.SSLError):
        return f"the encrypted connection failed ({error.reason or error})."
    if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected | ConnectionError):
        return "it ended the connection too early."
    if isinstance(error, http.client.HTTPException):
        return f"it does not speak HTTP ({type(error).__name__})."
    if isinstance(error, OSError):
        return f"it cannot be reached ({error.strerror or type(error).__name__})."
    return f"its answer cannot be used: {said(error)}."
