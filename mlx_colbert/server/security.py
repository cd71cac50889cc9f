"""Who may ask: the key, the Host header, the origin. And what a browser may do with the answers."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_colbert.server.problems import Problem, answer
from mlx_colbert.server.settings import Settings

__all__ = ["Security", "host_name", "is_loopback"]

# A browser asks for these before a person can give the key. They tell nothing of documents.
_OPEN = ("/", "/health")
_OPEN_FOLDER = "/web/"

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII)


def host_name(header: str) -> str | None:
    """The name or address in a Host header, in lower case, without port, brackets and the dot at the end.

    None: it is not valid.

    >>> host_name("LOCALHOST.:8765"), host_name("[::1]:80"), host_name("a b")
    ('localhost', '::1', None)
    """
    found = _HOST.fullmatch(header.strip().lower())
    if found is None:
        return None
    name = found[1]
    if name.startswith("["):
        name = name[1:-1]
        return name if _address(name) is not None else None
    return name.removesuffix(".") or None


def is_loopback(name: str) -> bool:
    """Whether a name or address is always this machine."""
    address = _address(name)
    return name == "localhost" if address is None else address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


class Security:
    """An application that only those may ask who are allowed to.

    A page of a stranger runs in the browser of the user, so it can send requests to this machine. It must
    not be able to read or change anything. It sends its own name in `Origin`. If its name was made to lead to
    this machine (DNS rebinding), it sends that name in `Host`.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._key = None if settings.api_key is None else settings.api_key.encode()
        self._names = {name.lower().removesuffix(".") for name in (settings.host, *settings.allowed_hosts)}
        listening = _address(settings.host)
        self._is_everywhere = listening is not None and listening.is_unspecified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                # A browser may keep the files of the page, and asks whether they changed.
                is_page = scope["path"] == "/" or scope["path"].startswith(_OPEN_FOLDER)
                headers.setdefault("cache-control", "no-cache" if is_page else "no-store")
            await send(message)

        problem = self._problem(Headers(scope=scope), scope["path"], scope["method"])
        if problem is None:
            await self._app(scope, receive, sent)
        else:
            request_id = scope.get("state", {}).get("request_id")
            await answer(problem, request_id)(scope, receive, sent)

    def _problem(self, headers: Headers, path: str, method: str) -> Problem | None:
        """Why a request is refused."""
        name = host_name(headers.get("host", ""))
        if name is None or not self._is_ours(name):
            given = headers.get("host", "")
            return Problem(403, f"Host {given!r:.100} is not served. Allow it with --allowed-host.")
        for origin in headers.getlist("origin"):
            if not _is_same(origin, headers["host"]):
                return Problem(403, f"Origin {origin!r:.100} is another site.")
        if _is_of_another_site(headers, method):
            return Problem(403, "The request comes from the page of another site.")
        is_open = path in _OPEN or path.startswith(_OPEN_FOLDER)
        if self._key is not None and not is_open and not self._has_key(headers):
            detail = "The key is missing or wrong. Send it: `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            return Problem(401, detail, headers={"www-authenticate": "Bearer"})
        return None

    def _is_ours(self, name: str) -> bool:
        if name in self._names or is_loopback(name):
            return True
        # No name leads to an address in the Host header: the browser was told the address itself.
        return self._is_everywhere and _address(name) is not None

    def _has_key(self, headers: Headers) -> bool:
        assert self._key is not None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = [token.strip()] if scheme.lower() == "bearer" else []
        given += headers.getlist("x-api-key")
        # Every one is compared, so that the time says nothing.
        return any([hmac.compare_digest(key.encode(errors="replace"), self._key) for key in given])


def _is_same(origin: str, host: str) -> bool:
    """Whether an origin is that of the host that was asked. A proxy may speak https for it."""
    scheme, found, place = origin.partition("://")
    return bool(found) and scheme.lower() in ("http", "https") and place.lower() == host.strip().lower()


def _is_of_another_site(headers: Mapping[str, str], method: str) -> bool:
    """Whether a browser says that another site's page sends this. A link that a person follows is allowed."""
    site = headers.get("sec-fetch-site", "none")
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return site not in ("none", "same-origin") and not is_link
