"""A server on the loopback that speaks as much of Qdrant's REST protocol as a store needs.

Qdrant's own local mode answers, so what is proved is the way there and back: addresses, keys, JSON, batches.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models


class QdrantServer:
    """The server. `requests` has the method, path, key and size of each request."""

    def __init__(self, key=None):
        self.key = key
        self.requests = []
        self.client = QdrantClient(":memory:")
        self._lock = Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.requests.append((self.command, self.path, self.headers.get("api-key"), len(body)))
                path = self.path.split("?")[0]
                with server._lock:
                    status, found = server.reply(self.command, path, self.headers.get("api-key"), body)
                text = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = answer

            def log_message(self, *words):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.client.close()

    def reply(self, method, path, key, body):
        if self.key is not None and key != self.key:
            return 401, {"status": {"error": "Unauthorized"}, "time": 0}
        if path in ("", "/"):
            return 200, {"title": "qdrant", "version": "1.16.0"}
        _, _, name, *rest = path.split("/")
        if len(body) > 32 << 20:
            return 413, {"status": {"error": "Payload too large"}, "time": 0}
        call = getattr(self, "_".join([method.lower(), *rest]) if rest else method.lower())
        found = call(name, json.loads(body or b"null"))
        result = TypeAdapter(object).dump_python(found, mode="json")
        return 200, {"result": result, "status": "ok", "time": 0.0}

    def get_exists(self, name, _):
        return {"exists": self.client.collection_exists(name)}

    def put(self, name, body):
        given = models.CreateCollection(**body)
        return self.client.create_collection(name, vectors_config=given.vectors)

    def put_index(self, name, body):
        return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)

    def put_points(self, name, body):
        return self.client.upsert(name, models.PointsList(**body).points)

    def post_points_delete(self, name, body):
        return self.client.delete(name, models.PointIdsList(points=body["points"]))

    def post_points(self, name, body):
        return self.client.retrieve(
            name, body["ids"], with_payload=body["with_payload"], with_vectors=body["with_vector"]
        )

    def post_points_scroll(self, name, body):
        given = models.ScrollRequest(**body)
        points, offset = self.client.scroll(
            name,
            scroll_filter=given.filter,
            limit=given.limit,
            offset=given.offset,
            with_payload=given.with_payload,
            with_vectors=given.with_vector,
        )
        return {"points": points, "next_page_offset": offset}

    def post_points_count(self, name, body):
        return self.client.count(name)

    def post_points_query(self, name, body):
        given = models.QueryRequest(**body)
        query = body["query"]
        return self.client.query_points(
            name,
            query=query["nearest"] if isinstance(query, dict) else query,
            using=given.using,
            limit=given.limit,
            query_filter=given.filter,
            with_payload=given.with_payload,
        )
