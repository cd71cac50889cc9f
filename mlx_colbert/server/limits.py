"""How large requests may be, and how long it may take to arrive."""

from __future__ import annotations

import asyncio
import json
import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_colbert.server.problems import Problem, answer, is_json
from mlx_colbert.server.settings import Limits

__all__ = ["BodyLimits"]

_FILE = re.compile(r"/collections/[^/]+/files/.+", re.DOTALL)

_HEAD_BYTES = 16 << 10
# The rest of the body is not read, so the connection cannot be used again.
_CLOSE = {"connection": "close"}
# A smaller body cannot have many values.
_SMALL_BYTES = 16 << 10
_LATER = {"retry-after": "1"}
# No part of it is tried twice, so that the time grows as the length, whatever the bytes are.
_TOKEN = re.compile(
    rb"""
    "[^"\\]*+(?:\\.[^"\\]*+)*+"?+ | \[[\ \t\r\n]*+\] | \{[\ \t\r\n]*+\} | [^"\[\]{},]++
    | (?P<comma>,) | (?P<opened>[\[{]) | (?P<closed>[\]}])
    """,
    re.DOTALL | re.VERBOSE,
)
# JSON has no more of these tokens for each of its values.
_TOKENS_PER_VALUE = 12


class BodyLimits:
    """An application that gets no larger bodies than it wants, and none that never end."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._n_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["path"]) > _HEAD_BYTES:
            problem = Problem(431, f"Path and headers have more than {_HEAD_BYTES:,} bytes.", headers=_CLOSE)
            await answer(problem, scope.get("state", {}).get("request_id"))(scope, receive, send)
            return
        is_file = scope["method"] == "PUT" and _FILE.fullmatch(scope["path"]) is not None
        most = self._limits.file_bytes if is_file else self._limits.body_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        is_declared_large = int(declared) > most if declared.isdecimal() else False
        deadline = asyncio.get_running_loop().time() + self._limits.body_s
        n_bytes, is_whole = 0, False
        parts: list[bytes] | None = [] if is_json(Headers(scope=scope).get("content-type", "")) else None

        async def received() -> Message:
            nonlocal n_bytes, is_whole
            if is_whole:
                return await receive()
            if is_declared_large:
                raise _too_large(most)
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                detail = f"The body did not arrive within {self._limits.body_s:.0f} s."
                raise HTTPException(408, detail, _CLOSE) from None
            body = message.get("body", b"")
            n_new = len(body)
            n_bytes += n_new
            self._n_open += n_new
            is_whole = not message.get("more_body", False)
            if n_bytes > most:
                raise _too_large(most)
            if self._n_open > self._limits.open_bytes:
                raise HTTPException(429, "Other large requests are not answered yet.", _CLOSE | _LATER)
            if parts is not None:
                parts.append(body)
                if is_whole and n_bytes > _SMALL_BYTES:
                    await asyncio.to_thread(self._check_json, b"".join(parts))
            return message

        try:
            await self._app(scope, received, send)
        finally:
            self._n_open -= n_bytes

    def _check_json(self, body: bytes) -> None:
        """Refuse JSON of too many values. A body that is no JSON is refused later.

        The values are counted, not made: those of a small body may need a hundred times its memory.
        """
        if not json.detect_encoding(body[:4]).startswith("utf-8"):
            raise HTTPException(400, "The body is not UTF-8.")
        n_values, depth = 1, 1
        most = self._limits.json_values
        for n_tokens, token in enumerate(_TOKEN.finditer(body)):
            if token.lastgroup == "comma":
                n_values += 1
            elif token.lastgroup == "opened":
                n_values, depth = n_values + 1, depth + 1
            elif token.lastgroup == "closed":
                depth -= 1
            is_large = n_values > most or n_tokens > _TOKENS_PER_VALUE * most
            if is_large or depth > self._limits.json_depth:
                limits = f"{most:,} values and {self._limits.json_depth} levels"
                raise HTTPException(422, f"The JSON is too large: at most {limits} are allowed.")


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"The body has more than {most:,} bytes. Send it in parts.", _CLOSE)
