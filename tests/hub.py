"""A hub on the loopback: the part of the Hugging Face hub's HTTP API that huggingface_hub needs here.

conftest.py imports it before anything imports huggingface_hub.

`Hub` holds repositories in memory. Tests add some, tell it how to fail, and look at what was asked of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

# huggingface_hub reads its settings when it is imported, so the port is taken before, and kept.
_SOCKET = socket.socket()
_SOCKET.bind(("127.0.0.1", 0))
URL = f"http://127.0.0.1:{_SOCKET.getsockname()[1]}"
# Large files go over plain HTTP.
ENVIRONMENT = {"HF_ENDPOINT": URL, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
os.environ |= ENVIRONMENT

TOKEN = "hf_loopback"
# Files of these kinds are stored apart from git, under the SHA-256 of their content.
LARGE = (".safetensors", ".bin")


@dataclass
class Repository:
    """One repository: its branches and tags name commits, a commit is a dict of files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], *, branch: str = "main") -> str:
        listed = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files.items())
        sha = hashlib.sha1(json.dumps([branch, len(self.commits), listed]).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub:
    """The server, and what it holds.

    Attributes:
        repositories: id -> repository.
        log: every request, as "GET owner/name/file" for a file of a repository and "GET /path" for others.
        ranges: the Range headers of requests for files.
        spoil: called with a file's name and content before it is sent; what it returns is sent instead.
        cut: file name -> how many times a connection is cut in the middle of it.
        is_full: large files are refused.
    """

    current: ClassVar[Hub]

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.ranges: list[str] = []
        self.spoil: Callable[[str, bytes], bytes] = lambda name, content: content
        self.cut: dict[str, int] = {}
        self.is_full = False
        Hub.current = self
        _serve()

    def add(self, repo_id: str, folder: Path, **extra: bytes) -> Repository:
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        repository = self.repositories.setdefault(repo_id, Repository())
        repository.commit({**files, **extra})
        return repository

    def fetched(self) -> list[str]:
        """The files whose contents were sent, in order of their names."""
        return sorted({line.split("/", 2)[2] for line in self.log if line.startswith("GET owner/")})


@cache
def _serve() -> None:
    """Starts the server, for as long as the process lives: clients keep their connections."""
    server = ThreadingHTTPServer(_SOCKET.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = _SOCKET
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """Answers from `Hub.current`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def answer(
        self, body: object = b"", status: int = 200, *, announced: int | None = None, **headers: str
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(raw) if announced is None else announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.answer(
            {"error": message},
            status,
            X_Error_Code=code,
            X_Error_Message=message or HTTPStatus(status).phrase,
        )

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def repository(self, repo_id: str) -> Repository | None:
        """The repository, or None where the answer has been given."""
        found = Hub.current.repositories.get(repo_id)
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif found is None or (found.private and authorization is None):
            # As the hub does, which does not tell strangers what exists.
            self.refuse(401 if authorization is None else 404, "RepoNotFound", "Repository not found")
        else:
            return found
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            Hub.current.log.append(f"{self.command} {path}")
            self.describe("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            Hub.current.log.append(f"{self.command} {parts[0]}/{parts[1]}/{'/'.join(parts[4:])}")
            self.send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.refuse(404)

    def describe(self, repo_id: str, rest: list[str]) -> None:
        repository = self.repository(repo_id)
        if repository is None:
            return
        sha = repository.resolve(rest[1] if len(rest) > 1 else "main")
        if sha is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        files = repository.commits[sha]
        if rest[:1] == ["tree"]:
            entries = []
            for name, content in files.items():
                entry = {"type": "file", "path": name, "size": len(content), "oid": _git_id(content)}
                if name.endswith(LARGE):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                entries.append(entry)
            return self.answer(entries)
        siblings = [{"rfilename": name} for name in files]
        self.answer({"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings, "tags": []})

    def send_file(self, repo_id: str, revision: str, name: str) -> None:
        repository = self.repository(repo_id)
        if repository is None:
            return
        if repository.gated and self.headers.get("Authorization") is None:
            return self.refuse(401, "GatedRepo", "Access to this model is restricted")
        if repository.gated:
            return self.refuse(403, "GatedRepo", "You are not in the authorized list")
        sha = repository.resolve(revision)
        if sha is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if name not in repository.commits[sha]:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = repository.commits[sha][name]
        etag = hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else _git_id(content)
        headers = {"X_Repo_Commit": sha, "ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        if self.command == "HEAD":
            return self.answer(content, **headers)
        start = 0
        if asked := self.headers.get("Range"):
            Hub.current.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = Hub.current.spoil(name, content)[start:]
        if Hub.current.cut.get(name, 0) > 0:
            Hub.current.cut[name] -= 1
            self.answer(
                part[: len(part) // 2], 206 if start else 200, announced=len(content) - start, **headers
            )
            self.close_connection = True
            return None
        self.answer(part, 206 if start else 200, **headers)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.body()
        Hub.current.log.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, message="Invalid username or password.")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo_id = f"{asked.get('organization') or 'owner'}/{asked['name']}"
            if asked.get("organization") not in (None, "owner"):
                return self.refuse(403, message=f"You don't have the rights to create {repo_id}")
            if repo_id in Hub.current.repositories:
                return self.refuse(409, message="You already created this model repo")
            Hub.current.repositories[repo_id] = Repository()
            Hub.current.repositories[repo_id].commit({})
            return self.answer({"url": f"{URL}/{repo_id}", "id": repo_id, "name": repo_id})
        if parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                item | {"actions": {"upload": {"href": f"{URL}/lfs/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        repository = self.repository("/".join(parts[2:4]))
        if repository is None:
            return None
        if parts[4] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        sha = repository.commit({**repository.commits[repository.refs["main"]], **self.uploaded(body)})
        url = f"{URL}/{'/'.join(parts[2:4])}/commit/{sha}"
        self.answer({"success": True, "commitUrl": url, "commitOid": sha})

    def uploaded(self, body: bytes) -> dict[str, bytes]:
        files = {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = Hub.current.blobs[line["value"]["oid"]]
        return files

    def do_PUT(self) -> None:
        content = self.body()
        oid = self.path.rsplit("/", 1)[1]
        Hub.current.log.append("PUT /lfs")
        if Hub.current.is_full:
            return self.refuse(403, message="Storage limit reached")
        if hashlib.sha256(content).hexdigest() != oid:
            return self.refuse(400, message="wrong content")
        Hub.current.blobs[oid] = content
        self.answer({})


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
