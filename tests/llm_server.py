"""A language model server on the loopback with the interface of OpenAI, which a test may spoil."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LlmServer:
    """Streams `pieces`. `behave[path]` replaces what it does: it gets the request handler and the body.

    Attributes:
        software: what it calls itself. mlx_lm.server is "BaseHTTP/0.6".
        asked: the path, headers and body of each request.
        stop: is set at the end, so that a handler that waits for it ends.
    """

    def __init__(self) -> None:
        self.models: Any = {"object": "list", "data": [{"id": "tiny", "object": "model"}]}
        self.software = "tiny/1.0"
        self.pieces = ["Leaves", " are", " green [1]."]
        self.behave: dict[str, Callable[[BaseHTTPRequestHandler, Any], None]] = {}
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.stop = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def version_string(self) -> str:
                return server.software

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def answer(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(sent) if sent else None
                server.asked.append((self.path, dict(self.headers), body))
                if self.path in server.behave:
                    server.behave[self.path](self, body)
                elif self.path.endswith("/models"):
                    send_json(self, server.models)
                elif self.path.endswith("/chat/completions"):
                    begin_stream(self)
                    for piece in server.pieces:
                        send_piece(self, piece)
                    end_stream(self)
                else:
                    send_json(self, {"error": "not here"}, status=404)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]

    def close(self) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()


def send_json(handler: BaseHTTPRequestHandler, value: Any, *, status: int = 200) -> None:
    send_bytes(handler, json.dumps(value).encode(), "application/json", status=status)


def send_bytes(handler: BaseHTTPRequestHandler, data: bytes, kind: str, *, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def begin_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
    handler.end_headers()


def send_event(handler: BaseHTTPRequestHandler, value: Any) -> None:
    handler.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
    handler.wfile.flush()


def send_piece(handler: BaseHTTPRequestHandler, text: str | None, **delta: Any) -> None:
    send_event(
        handler, {"choices": [{"index": 0, "delta": {"content": text, **delta}, "finish_reason": None}]}
    )


def end_stream(handler: BaseHTTPRequestHandler, reason: str = "stop") -> None:
    send_event(handler, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    send_event(handler, {"choices": [], "usage": {"total_tokens": 9}})
    handler.wfile.write(b"data: [DONE]\n\n")
