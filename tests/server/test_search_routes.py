"""Search, passages, related passages and lines of files over HTTP."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from mlx_colbert.cli import main
from mlx_colbert.documents import folders


def passage_id(server, source="notes/tea.md"):
    with server.collection() as collection:
        return collection.index.passages_of(source)[0]


def test_search_finds_hits_with_all_that_a_page_needs(server):
    found = server.search("kettle", mode="hybrid", shading=True, context=2, k=2)
    hit = found["hits"][0]
    assert found["query_words"] == [{"start": 0, "end": 6, "text": "kettle"}]
    assert (hit["collection"], hit["rank"]) == ("notes", 1) and found["took_ms"] > 0
    assert hit["link"].startswith("file:///") and hit["path"].startswith(str(server.folder))
    words = {hit["text"][word["start"] : word["end"]]: word for word in hit["words"]}
    assert all(0 <= word["similarity"] <= 1 and word["query_word"] == 0 for word in words.values())
    assert "kettle" in words
    assert hit["surroundings"] is not None
    assert len(found["hits"]) == 2


def test_search_and_the_command_line_give_the_same_hits(server, monkeypatch, capsys):
    import json

    monkeypatch.setenv("MLX_COLBERT_HOME", str(server.registry.home))
    main(["search", "kettle leaves", "--all", "--json", "--context", "1"])
    shown = json.loads(capsys.readouterr().out)
    found = server.search("kettle leaves", context=1)
    assert found.pop("took_ms") > 0
    assert found == shown


@pytest.mark.parametrize(
    ("restriction", "expected"),
    [
        ({"in": ["2024"]}, {"notes/2024/bees.md"}),
        ({"in": ["*.py"]}, {"notes/tool.py"}),
        ({"type": ["markdown"]}, {"notes/tea.md", "notes/2024/bees.md"}),
        ({"regex": "^def "}, {"notes/tool.py"}),
        ({"since": "2100"}, set()),
        ({"filter": "kind = 'code'"}, {"notes/tool.py"}),
        ({"collections": ["NOTES"]}, {"notes/tea.md", "notes/2024/bees.md", "notes/tool.py"}),
    ],
)
def test_search_may_be_restricted(server, restriction, expected):
    found = server.search("kettle", **restriction)
    assert {hit["source"] for hit in found["hits"]} == expected


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 422, "query"),
        ({"query": ""}, 422, "query"),
        ({"query": "  "}, 422, "the query is blank"),
        ({"query": "tea", "k": 0}, 422, "k"),
        ({"query": "tea", "k": 1001}, 422, "k"),
        ({"query": "tea", "since": "soon"}, 422, "'soon': is not a date"),
        ({"query": "tea", "before": "2024-13"}, 422, "is not a date"),
        ({"query": "tea", "type": ["word"]}, 422, "is not a kind of file"),
        ({"query": "tea", "filter": "lang ="}, 422, "filter"),
        ({"query": "tea", "regex": "("}, 422, "is not a regular expression"),
        ({"query": "tea", "in": ["a\0b"]}, 422, "is not a path"),
        ({"query": "tea", "in": [""]}, 422, "is not a path"),
        ({"query": "tea", "min_score": 2}, 422, "min_score"),
        ({"query": "tea", "min_score": 0.5, "mode": "keyword"}, 422, "keyword search does not have"),
        ({"query": "tea", "mode": "magic"}, 422, "mode"),
        ({"query": "tea", "colour": "red"}, 422, "colour"),
        ({"query": "tea", "collections": ["nope"]}, 404, "collection nope: does not exist"),
        ({"query": "tea", "collections": ["."]}, 404, "does not exist"),
        ({"query": "tea", "collections": ["/etc"]}, 404, "does not exist"),
        ({"query": "tea", "collections": ["a\0b"]}, 404, "does not exist"),
    ],
)
def test_wrong_search_is_a_problem_that_says_what_to_do(server, body, status, detail):
    answer = server.post("/search", **body)
    assert answer.status_code == status and detail in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_lone_half_of_a_character_is_a_problem(server):
    answer = server.client.post(
        "/search", content=b'{"query": "\\ud800"}', headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422


def test_evil_expression_of_a_client_does_not_hold_up_others(server, monkeypatch):
    monkeypatch.setattr("mlx_colbert.server.routes.search._PATTERN_S", 2.0)
    with ThreadPoolExecutor(1) as pool:
        evil = pool.submit(server.post, "/search", query="tea", regex="([a-zA-Z ]+)+!", refresh=False)
        assert server.search("kettle", refresh=False)["hits"]
        answer = evil.result()
    assert answer.status_code == 422 and "takes longer than 2 seconds" in answer.json()["detail"]


def test_folder_beside_the_server_is_never_searched(server, tmp_path, monkeypatch):
    """A name with a slash would be a path for the command line."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "secret.md").write_text("secret kettle\n")
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "another-home"))
    main(["sync", str(other), "--local", "--model", str(server.collection().settings.model)])
    monkeypatch.chdir(other)
    for name in (str(other), "./", ".", "other", "../other"):
        assert server.post("/search", query="secret", collections=[name]).status_code == 404
        assert "secret" not in server.get(f"/collections/{quote(name, safe='')}").text
    assert "secret" not in str(server.search("kettle"))


def test_collection_that_is_broken_is_left_out_and_named(server):
    place = server.registry.home / "collections" / "broken"
    place.mkdir()
    (place / "collection.toml").write_text("model = 3\n")
    assert any("broken" in note for note in server.search("kettle")["notes"])


def test_passage_is_read_by_its_whole_or_short_id(server):
    doc_id = passage_id(server)
    for name in (doc_id, "#" + doc_id.rpartition("#")[2], doc_id.rpartition("#")[2]):
        answer = server.get(f"/collections/notes/passages/{quote(name, safe='')}", context=1)
        assert answer.status_code == 200 and answer.json()["doc_id"] == doc_id
    assert "first line" in answer.json()["text"] or answer.json()["surroundings"]


@pytest.mark.parametrize(
    "name", ["nope", "#12345678", "a\0b", "../../etc/passwd", "notes/tea.md:9999", "", " "]
)
def test_passage_that_does_not_exist_is_404(server, name):
    answer = server.get(f"/collections/notes/passages/{quote(name, safe='')}")
    assert answer.status_code == 404


def test_related_passages_are_those_of_all_collections(server):
    doc_id = quote(passage_id(server), safe="")
    answer = server.get(f"/collections/notes/passages/{doc_id}/similar", k=2)
    assert answer.status_code == 200
    assert {hit["source"] for hit in answer.json()["hits"]} == {"notes/2024/bees.md", "notes/tool.py"}
    assert server.get("/collections/notes/passages/nope/similar").status_code == 404
    assert server.get(f"/collections/notes/passages/{doc_id}/similar", k=0).status_code == 422


def test_file_alone_is_its_only_passage_or_the_answer_lists_their_lines(server):
    long = "\n\n".join(f"{word} {' '.join(['pad'] * 150)}" for word in ("one", "two", "three"))
    (server.folder / "long.md").write_text(f"{long}\n")
    server.sync()

    assert server.get("/collections/notes/passages/notes/tea.md/similar").status_code == 200
    answer = server.get("/collections/notes/passages/notes/long.md/similar")

    assert answer.status_code == 404
    assert " passages. Name one as PATH:LINE, or by its id:" in answer.json()["detail"]
    assert answer.json()["detail"].endswith("\n  notes/long.md:1\n  notes/long.md:3\n  notes/long.md:5")


def test_lines_of_an_indexed_file_are_read(server):
    answer = server.get("/collections/notes/source", path="notes/tea.md", first=3, count=3).json()
    assert answer["lines"] == ["first line", "", "Steep the leaves in a kettle."]
    assert (answer["first"], answer["n_lines"], answer["is_indexed"]) == (3, 7, True)
    (server.folder / "tea.md").write_text("changed\n")
    assert not server.get("/collections/notes/source", path="notes/tea.md").json()["is_indexed"]
    # As the command line takes it: without the label, and as a path of the disk.
    for path in ("tea.md", str(server.folder / "tea.md")):
        assert server.get("/collections/notes/source", path=path).json()["source"] == "notes/tea.md"
    assert server.get("/collections/notes/source", path="notes/tea.md", first=9).status_code == 422
    (server.folder / "tea.md").unlink()
    assert server.get("/collections/notes/source", path="notes/tea.md").status_code == 404


def test_file_without_lines_has_its_passages(server):
    import zipfile

    with zipfile.ZipFile(server.folder / "book.docx", "w") as archive:
        archive.writestr(
            "word/document.xml",
            '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
            "<w:p><w:r><w:t>Steep the tea.</w:t></w:r></w:p></w:body></w:document>",
        )
        archive.writestr("[Content_Types].xml", "<Types/>")
    server.sync()
    answer = server.get("/collections/notes/source", path="notes/book.docx").json()
    assert answer["lines"] == [] and [hit["text"] for hit in answer["passages"]] == ["Steep the tea."]
    assert server.get("/collections/notes/source", path="notes/none.docx").status_code == 404


@pytest.fixture
def secrets(server, tmp_path):
    """Files that nobody may read: out of the folder, hidden, not indexed, of another collection."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tea.md").write_text("SECRET\n")
    (server.folder / ".hidden.md").write_text("SECRET\n")
    (server.folder / "later.md").write_text("LATER\n")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "path",
    [
        *("../out/tea.md", "notes/../../out/tea.md", "notes/../tea.md", "notes//../../out/tea.md"),
        *("/etc/passwd", "notes//etc/passwd", "notes/tea.md\0.txt", "notes/.hidden.md", "notes/later.md"),
        *("%2e%2e/out/tea.md", "notes/%2e%2e/%2e%2e/out/tea.md", "..%2fout%2ftea.md", "..\\out\\tea.md"),
        *("notes", "notes/", "", ".", "file:///etc/passwd", "others/tea.md", "NOTES/tea.md", "out/tea.md"),
        *("notes/tea.md/", "notes/./tea.md", "notes/2024", "\u202enotes/tea.md", "collection.toml"),
    ],
)
def test_file_that_is_not_in_the_index_is_never_served(server, secrets, path):
    for answer in (
        server.get("/collections/notes/source", path=path),
        # Encoded twice: a proxy may decode it once.
        server.client.get(f"/collections/notes/source?path={quote(quote(path, safe=''), safe='')}"),
        server.client.get(f"/collections/notes/passages/{quote(path, safe='')}"),
        server.client.get(f"/web/{quote(path, safe='')}"),
    ):
        assert answer.status_code in (404, 422)
        assert not any(word in answer.text for word in ("SECRET", "LATER", "root:"))


def test_file_of_another_collection_is_not_served(server, secrets):
    job = server.finished(server.post("/collections", folder=str(secrets), name="others"))
    assert job["state"] == "done", job
    assert server.get("/collections/others/source", path="out/tea.md").json()["lines"] == ["SECRET"]
    assert server.get("/collections/notes/source", path="out/tea.md").status_code == 404


@pytest.mark.parametrize("target", ["file", "folder"])
def test_link_that_was_made_after_the_sync_is_not_followed(server, secrets, target):
    if target == "file":
        (server.folder / "tea.md").unlink()
        (server.folder / "tea.md").symlink_to(secrets / "tea.md")
        path = "notes/tea.md"
    else:
        (secrets / "bees.md").write_text("SECRET\n")
        os.rename(server.folder / "2024", secrets / "moved")  # noqa: PTH104
        (server.folder / "2024").symlink_to(secrets)
        path = "notes/2024/bees.md"
    answer = server.get("/collections/notes/source", path=path)
    assert answer.status_code == 404 and "SECRET" not in answer.text
    found = server.search("dance kettle", context=5)
    assert "SECRET" not in str(found)


def test_folder_that_becomes_a_link_between_the_check_and_the_opening_is_not_followed(
    server, secrets, monkeypatch
):
    (secrets / "bees.md").write_text("SECRET\n")
    checked = folders.real_path_in

    def then_swap(root, path):
        real = checked(root, path)
        (server.folder / "2024").rename(secrets / "moved")
        (server.folder / "2024").symlink_to(secrets)
        return real

    monkeypatch.setattr(folders, "real_path_in", then_swap)
    answer = server.get("/collections/notes/source", path="notes/2024/bees.md")
    assert answer.status_code == 404 and "SECRET" not in answer.text


def test_searches_go_on_while_files_are_added(server):
    for number in range(60):
        (server.folder / f"new{number}.md").write_text(f"word{number} kettle\n" * 40)
    stop, counts = threading.Event(), []

    def ask():
        while not stop.is_set():
            counts.append(len(server.search("kettle", refresh=False, k=3)["hits"]))

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(ask) for _ in range(3)]
        job = server.finished(server.post("/collections/notes/sync"))
        stop.set()
        for search in searches:
            search.result()
    assert (job["state"], len(job["result"]["new"])) == ("done", 60)
    assert counts and min(counts) == 3
