"""Collections, jobs, documents and uploads over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
from collecting import Barrier, events_of, until

from mlx_colbert.cli import main
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.lock import locked
from mlx_colbert.server import events

JSON = {"content-type": "application/json"}


def overview(server, name="notes"):
    found = server.get("/collections").json()["collections"]
    return next(item for item in found if item["name"] == name)


def put(server, path, data=b"Steep the tea.\n", name="mine"):
    return server.client.put(f"/collections/{name}/files/{quote(path, safe='/')}", content=data)


@pytest.fixture
def uploads(server):
    assert server.finished(server.post("/collections", uploads=True, name="mine"))["state"] == "done"
    return server


@pytest.fixture
def documents(server):
    server.finished(server.post("/collections", name="api"))
    return server


def add(server, *documents, name="api"):
    return server.client.post(f"/collections/{name}/documents", json={"documents": list(documents)})


# ---- collections


def test_list_and_status_are_those_of_the_command_line(server, monkeypatch, capsys):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(server.registry.home))
    (server.folder / "bad.docx").write_bytes(b"no archive")
    server.sync()
    capsys.readouterr()
    main(["collections", "--json"])
    assert server.get("/collections").json() == json.loads(capsys.readouterr().out)
    main(["status", "notes", "--json"])
    (shown,) = json.loads(capsys.readouterr().out)["collections"]
    assert shown.pop("error") is None
    found = server.get("/collections/notes").json()
    assert found == shown and [path.rpartition("/")[2] for path in found["failed"]] == ["bad.docx"]
    numbers = overview(server)
    assert (numbers["files"], numbers["n_failed"], numbers["documents"]) == (3, 1, 0)
    assert numbers["passages"] == found["passages"] and numbers["bytes"] == found["bytes"] > 0


def test_folder_becomes_a_collection(server, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "boat.md").write_text("The keel of the boat.\n")
    (tmp_path / "other" / "draft.md").write_text("A draft.\n")
    answer = server.post("/collections", folder=str(tmp_path / "other"), exclude=["draft*"])
    assert answer.json()["name"] == "other"
    job = server.finished(answer)
    assert (job["state"], job["target"], job["result"]["new"]) == ("done", "other", ["other/boat.md"])
    assert (
        server.get("/collections/other").json()["model"] == server.get("/collections/notes").json()["model"]
    )
    again = server.post("/collections", folder=str(tmp_path / "other"))
    assert again.json()["name"] == "other"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"folder": "relative"}, 422),
        ({"folder": "."}, 422),
        ({"folder": "/no/such/folder"}, 422),
        ({"folder": "/a\0b"}, 422),
        ({"folder": "/"}, 422),
        ({"folder": "/tmp/.."}, 422),
        ({"folder": "{home}"}, 422),
        ({"folder": "{home}/collections"}, 422),
        ({"folder": "{home}/.."}, 202),
        ({"uploads": True}, 422),
        ({"uploads": True, "name": "x", "folder": "/tmp"}, 422),
        ({"uploads": True, "name": "notes"}, 422),
        ({"uploads": True, "name": "../x"}, 422),
        ({"name": "a/b"}, 422),
        ({"name": "NOTES"}, 422),
        ({"name": "x", "include": ["*.md"]}, 422),
        ({"name": "x", "model": "strange/model"}, 422),
        ({"name": "x", "model": "/etc"}, 422),
        ({"name": "x", "colour": "red"}, 422),
    ],
)
def test_collection_that_cannot_be_made_is_a_problem(server, body, status, tmp_path):
    (server.registry.home / "collections").mkdir(exist_ok=True)
    body = {
        key: value.format(home=server.registry.home) if key == "folder" else value
        for key, value in body.items()
    }
    before = len(server.get("/collections").json()["collections"])
    answer = server.client.post("/collections", json=body)
    assert answer.status_code == status, answer.text
    assert len(server.get("/collections").json()["collections"]) == before + (status == 202)


def test_two_requests_at_once_make_one_collection(server):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.post("/collections", uploads=True, name="mine"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [202, 422, 422, 422]


def test_folder_with_a_collection_beside_its_files_is_refused(server, tmp_path):
    folder = tmp_path / "theirs"
    (folder / ".mlx-colbert").mkdir(parents=True)
    (folder / ".mlx-colbert" / "collection.toml").write_text('[folders]\nx = "/etc"\n')
    assert server.post("/collections", folder=str(folder)).status_code == 409


def test_what_is_said_about_a_folder_is_in_its_hits(server):
    assert server.client.patch("/collections/notes", json={"context": "Ann's notes."}).status_code == 200
    answer = server.client.patch("/collections/notes", json={"context": "This year.", "path": "notes/2024"})
    assert answer.json()["contexts"] == {"/": "Ann's notes.", "notes/2024": "This year."}
    assert overview(server)["context"] == "Ann's notes."
    (hit,) = server.search("honey", **{"in": ["2024"]})["hits"]
    assert hit["context"] == ["Ann's notes.", "This year."]
    answer = server.client.patch("/collections/notes", json={"context": None, "path": "notes/2024"})
    assert answer.json()["contexts"] == {"/": "Ann's notes."}
    for body in (
        {"context": "x", "path": "others"},
        {"context": "x", "path": "/etc"},
        {"context": "x", "path": "notes/../../x"},
        {"context": " "},
        {"context": None, "path": "notes/tool.py"},
        {},
    ):
        assert server.client.patch("/collections/notes", json=body).status_code == 422
    assert server.client.patch("/collections/none", json={"context": "x"}).status_code == 404


def test_removed_collection_is_gone_and_its_files_stay(server):
    assert server.client.delete("/collections/NOTES").json() == {"removed": "notes"}
    assert server.client.delete("/collections/notes").status_code == 404
    assert (server.folder / "tea.md").exists()
    assert server.get("/collections").json() == {"collections": []}
    assert server.post("/search", query="tea").status_code == 404


def test_collection_that_is_changed_is_not_removed(server, monkeypatch):
    monkeypatch.setattr("mlx_colbert.server.routes.collections._REMOVE_WAIT_S", 0.05)
    with locked(server.registry.find("notes").path, "notes"):
        answer = server.client.delete("/collections/notes")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0


# ---- sync and jobs


def test_sync_tells_how_far_it_is(server, monkeypatch):
    gate = Barrier()
    sync = Collection.sync

    def slow(collection, *, progress, **options):
        progress("encoding", 3, 10)
        gate.wait()
        return sync(collection, progress=progress, **options)

    monkeypatch.setattr(Collection, "sync", slow)
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.2)
    job_id = server.post("/collections/notes/sync").json()["job"]["id"]
    assert gate.reached.wait(60)
    job = server.get(f"/jobs/{job_id}").json()
    assert (job["state"], job["stage"], job["done"], job["total"]) == ("running", "encoding", 3, 10)
    # One that waits stands for all later ones.
    waiting = [server.post("/collections/notes/sync").json()["job"] for _ in range(3)]
    assert len({item["id"] for item in waiting}) == 1 and waiting[0]["state"] == "waiting"
    assert [item["state"] for item in server.get("/jobs").json()["jobs"]] == ["running", "waiting"]
    threading.Timer(0.6, gate.opened.set).start()
    text = server.get(f"/jobs/{job_id}/events").text
    assert ": alive" in text
    (first, *_, (name, last)) = events_of(text)
    assert first[0] == "progress" and first[1]["done"] == 3
    assert (name, last["state"], last["id"]) == ("end", "done", job_id)


def test_failed_sync_says_why(server, tmp_path):
    settings = server.registry.find("notes").settings_path
    settings.write_text(settings.read_text().replace('model = "', 'model = "/nowhere'))
    job = server.finished(server.post("/collections/notes/sync"))
    assert job["state"] == "failed" and "model" in job["error"] and "Traceback" not in job["error"]


def test_job_that_fails_unexpectedly_is_in_the_log_without_what_it_read(make_server, monkeypatch):
    def fail(collection, **options):
        raise RuntimeError("SEC" + "RET")

    log = []
    server = make_server(log=log)
    monkeypatch.setattr(Collection, "sync", fail)
    job = server.finished(server.post("/collections/notes/sync"))
    assert job["error"].startswith("The server failed.")
    (lines,) = [line for line in log if line.startswith(f"job {job['id']} failed")]
    assert "RuntimeError" in lines and "SECRET" not in lines


def test_rebuild_keeps_documents(documents):
    add(documents, {"id": "a", "text": "Steep the tea."})
    job = documents.finished(documents.client.post("/collections/api/sync", json={"rebuild": True}))
    assert (job["what"], job["state"]) == ("rebuild", "done")
    assert documents.get("/collections/api/documents/a").json()["text"] == "Steep the tea."


@pytest.mark.parametrize("place", ["/jobs/nope", "/jobs/nope/events"])
def test_unknown_job_is_404(server, place):
    assert server.get(place).status_code == 404


# ---- documents


def test_document_is_added_found_replaced_and_deleted(documents):
    tea = {"id": "tea/1", "text": "Steep the tea.", "metadata": {"year": 2024}}
    assert add(documents, tea).json() == {"ids": ["tea/1"], "added": 1, "updated": 0, "truncated": 0}
    hit = documents.search("tea", collections=["api"], filter="year = 2024")["hits"][0]
    assert (hit["doc_id"], hit["source"], hit["metadata"]) == ("tea/1", None, {"year": 2024})
    assert documents.get("/collections/api/documents/tea%2F1").json() == tea
    changed = documents.client.put("/collections/api/documents/tea/1", json={"text": "Brew it."})
    assert changed.json()["updated"] == 1
    assert documents.get("/collections/api/passages/tea%2F1").json()["text"] == "Brew it."
    assert documents.client.delete("/collections/api/documents/tea/1").json() == {"deleted": 1}
    assert documents.get("/collections/api/documents/tea/1").status_code == 404
    missing = documents.client.delete("/collections/api/documents/tea/1")
    assert missing.status_code == 404
    assert missing.json()["detail"] == "collection api: has no document 'tea/1'."


def test_document_without_an_id_gets_one(documents):
    (doc_id,) = add(documents, {"text": "Steep the tea."}).json()["ids"]
    assert documents.get(f"/collections/api/documents/{doc_id}").json()["metadata"] is None


def test_list_of_documents_has_pages(documents):
    add(documents, *({"id": f"d{number}", "text": "words"} for number in range(5)))
    first = documents.get("/collections/api/documents", limit=3).json()
    second = documents.get("/collections/api/documents", limit=3, after=first["next"]).json()
    assert [item["id"] for item in first["documents"] + second["documents"]] == [f"d{n}" for n in range(5)]
    assert second["next"] is None
    assert documents.get("/collections/notes/documents").json() == {"documents": [], "next": None}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"documents": []}, 422),
        ({"documents": [{"id": "a"}]}, 422),
        ({"documents": [{"id": "a", "text": ""}]}, 422),
        ({"documents": [{"id": " ", "text": "x"}]}, 422),
        ({"documents": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, 409),
        ({"documents": [{"id": "notes/tea.md#0123abcd", "text": "x"}]}, 409),
        ({"documents": [{"id": "a", "text": "x", "metadata": [1]}]}, 422),
        ({"documents": [{"id": "a", "text": "x", "meta": {}}]}, 422),
        ({"documents": [{"id": "a", "text": "x" * 100_001}]}, 422),
        ({"documents": [{"text": "x"}] * 1001}, 422),
    ],
)
def test_documents_that_cannot_be_used_are_a_problem_and_none_is_added(documents, body, status):
    answer = documents.client.post("/collections/api/documents", json=body)
    assert answer.status_code == status, answer.text
    assert documents.get("/collections/api/documents").json()["documents"] == []


@pytest.mark.parametrize("literal", ["NaN", "1e999", "-Infinity"])
def test_metadata_that_json_does_not_have_are_a_problem(documents, literal):
    body = f'{{"documents": [{{"id": "a", "text": "x", "metadata": {{"n": {literal}}}}}]}}'
    answer = documents.client.post("/collections/api/documents", content=body, headers=JSON)
    assert answer.status_code == 422


def test_passage_of_a_file_is_no_document(server):
    with server.collection() as collection:
        doc_id = quote(next(iter(collection.index)), safe="")
    assert server.get(f"/collections/notes/documents/{doc_id}").status_code == 404
    assert server.client.delete(f"/collections/notes/documents/{doc_id}").status_code == 404
    assert server.client.put(f"/collections/notes/documents/{doc_id}", json={"text": "x"}).status_code == 409


def test_document_waits_for_a_sync_and_then_says_so(server, monkeypatch):
    monkeypatch.setattr("mlx_colbert.collection.documents._WAIT_S", 0.05)
    with locked(server.registry.find("notes").path, "notes"):
        answer = add(server, {"id": "a", "text": "x"}, name="notes")
    assert answer.status_code == 503 and "is changing it" in answer.json()["detail"]


# ---- uploads


def test_upload_takes_a_place_and_opens_the_collection_in_a_worker(uploads, monkeypatch):
    from mlx_colbert.collection import uploads as module

    threads, place_of = [], module.upload_place

    def found(*arguments):
        threads.append(threading.current_thread().name)
        return place_of(*arguments)

    monkeypatch.setattr("mlx_colbert.server.routes.files.upload_place", found)
    assert put(uploads, "tea.md").status_code == 202
    assert threads and threads[0].startswith("mlx-colbert-worker")


def test_facts_of_a_collection_have_the_same_names_in_the_list_and_alone(server):
    (listed,) = server.get("/collections").json()["collections"]
    alone = server.get("/collections/notes").json()
    same = listed.keys() & alone.keys()
    assert same >= {
        "name",
        "path",
        "folders",
        "model",
        "files",
        "passages",
        "documents",
        "bytes",
        "synced_at",
    }
    assert {key: listed[key] for key in same} == {key: alone[key] for key in same}
    # A number of files has another name than the files with their reasons.
    assert listed["n_failed"] == len(alone["failed"])


def test_stream_of_a_job_that_runs_when_the_server_stops_ends_with_an_error(server, monkeypatch):
    monkeypatch.setattr("mlx_colbert.server.routes.jobs._STOP_S", 0.0)
    jobs, may_end = server.client.app.state.jobs, threading.Event()
    job = jobs.start("sync", "notes", lambda progress: may_end.wait(60))
    jobs.stop()
    events = events_of(server.client.get(f"/jobs/{job.id}/events").text)
    may_end.set()
    name, problem = events[-1]
    assert (name, problem["status"]) == (
        "error",
        503,
    ) and "sync of notes: this process is being stopped" in problem["detail"]


def test_uploaded_file_is_found(uploads):
    job = uploads.finished(put(uploads, "2024/tea leaves.md"))
    assert job["result"]["new"] == ["mine/2024/tea leaves.md"]
    hit = uploads.search("tea", collections=["mine"])["hits"][0]
    assert hit["source"] == "mine/2024/tea leaves.md"
    job = uploads.finished(put(uploads, "2024/tea leaves.md", b"Changed.\n"))
    assert job["result"]["changed"] == ["mine/2024/tea leaves.md"]
    job = uploads.finished(uploads.client.delete("/collections/mine/files/2024/tea%20leaves.md"))
    assert job["result"]["deleted"] == ["mine/2024/tea leaves.md"]
    assert uploads.client.delete("/collections/mine/files/2024/tea%20leaves.md").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *(
            "%2e%2e/tea.md",
            "a/%2e%2e/%2e%2e/tea.md",
            "..%2ftea.md",
            "%2fetc%2ftea.md",
            "a%00.md",
            ".hidden.md",
        ),
        *("con.md", "photo.jpg", "a%5cb.md", "%ED%A0%80.md", "x" * 300 + ".md", "a/" * 40 + "b.md", "%0a.md"),
        *("%252e%252e%2ftea.jpg", "a%e2%80%aeb.md", "node_modules/a.md"),
    ],
)
def test_path_that_cannot_be_used_is_refused_and_nothing_is_written(uploads, path):
    answer = uploads.client.put(f"/collections/mine/files/{path}", content=b"x")
    assert answer.status_code in (404, 405, 422), answer.text
    assert not [item for item in uploads.registry.home.rglob("*") if item.suffix in (".md", ".jpg")]


def test_decomposed_letters_are_composed(uploads):
    put(uploads, unicodedata.normalize("NFD", "café.md"))
    job = uploads.finished(put(uploads, unicodedata.normalize("NFC", "café.md"), b"Second.\n"))
    assert job["state"] == "done"
    (found,) = uploads.registry.uploads.rglob("*.md")
    assert found.name == unicodedata.normalize("NFC", "café.md") and found.read_bytes() == b"Second.\n"


def test_files_of_a_folder_of_the_user_are_not_changed(server):
    assert put(server, "tea.md", b"theirs", name="notes").status_code == 409
    assert server.client.delete("/collections/notes/files/tea.md").status_code == 409
    assert "Steep" in (server.folder / "tea.md").read_text()
    assert put(server, "tea.md", name="none").status_code == 404


def test_too_large_file_leaves_nothing(make_server):
    from mlx_colbert.server.settings import Limits

    server = make_server(limits=Limits(file_bytes=1000))
    server.finished(server.post("/collections", uploads=True, name="mine"))
    assert put(server, "tea.md", b"x" * 1001).status_code == 413

    def parts():
        yield b"x" * 600
        yield b"x" * 600

    assert server.client.put("/collections/mine/files/tea.md", content=parts()).status_code == 413
    assert not [path for path in server.registry.uploads.rglob("*") if path.is_file()]
    assert put(server, "tea.md", b"x " * 500).status_code == 202


def test_removed_uploads_are_gone(uploads):
    uploads.finished(put(uploads, "tea.md"))
    assert uploads.client.delete("/collections/mine").status_code == 200
    assert not [path for path in uploads.registry.uploads.rglob("*") if path.is_file()]


# ---- a real process


PROGRAM = """
import sys
from mlx_colbert.cli import main
sys.exit(main(["serve", "--port", "0", "--json"]))
"""


@pytest.fixture
def process(server):
    """Starts `serve` in processes of their own: the process, and a client of it."""
    started = []

    def start():
        environment = {**os.environ, "MLX_COLBERT_HOME": str(server.registry.home)}
        environment["MLX_COLBERT_MODEL"] = server.collection().settings.model
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        url = json.loads(process.stdout.readline())["url"]
        client = httpx.Client(base_url=url, timeout=60)
        started.append((process, client))
        return process, client

    yield start
    for running, client in started:
        client.close()
        if running.poll() is None:
            running.kill()
        running.communicate()


@pytest.mark.slow
def test_every_acknowledged_write_is_there_after_a_kill(process, server):
    """Documents, an uploaded file and a context are written until the server is killed."""
    running, client = process()
    assert client.post("/collections", json={"name": "api"}).status_code == 202
    assert client.post("/collections", json={"name": "mine", "uploads": True}).status_code == 202
    written, lost = [], threading.Event()

    def write(thread):
        for number in range(10_000):
            name = f"t{thread}-{number}"
            try:
                if number % 2:
                    answer = client.put(f"/collections/mine/files/{name}.md", content=f"words {name}\n")
                else:
                    document = {"id": name, "text": f"words {name}"}
                    answer = client.post("/collections/api/documents", json={"documents": [document]})
            except httpx.HTTPError:
                lost.set()
                return
            if answer.status_code in (200, 202):
                written.append((number % 2, name))

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(write, thread) for thread in range(3)]
        until(lambda: len(written) >= 12)
        running.send_signal(signal.SIGKILL)
        for future in futures:
            future.result()
    assert lost.is_set()
    running.communicate()
    _, again = process()
    found = again.get("/collections/api/documents?limit=1000").json()["documents"]
    texts = {item["id"]: item["text"] for item in found}
    for is_file, name in written:
        if is_file:
            path = server.registry.uploads / "mine" / f"{name}.md"
            assert path.read_text() == f"words {name}\n"
        else:
            assert texts[name] == f"words {name}"
    job = again.post("/collections/mine/sync").json()["job"]
    last = events_of(again.get(f"/jobs/{job['id']}/events").text)[-1][1]
    assert last["state"] == "done", last
    assert again.get("/collections/mine").json()["files"] >= sum(is_file for is_file, _ in written)
    with server.collection("api") as collection:
        assert collection.index.verify() == []
