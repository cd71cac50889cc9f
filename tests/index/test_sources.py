"""Sources of passages: what came from a file, and what takes its place."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from made_stores import KINDS, make, problems_of

from mlx_colbert.errors import DuplicateIdError, IndexDamagedError, InputError, UnknownIdError
from mlx_colbert.index import Index
from mlx_colbert.types import Hit, Source

TEA = Source("notes/tea.md", "/home/ann/notes", "sha256:00", 1, 2)
PAGE = Source("https://example.org/page")
ROWS = np.eye(2)


def rows(n):
    return [ROWS] * n


@pytest.fixture(params=KINDS)
def index(request, tmp_path):
    made = make(request.param, tmp_path / "index", 2)
    yield made
    made.close()


# For a test that reads or changes the files of an index.
OF_FILES = pytest.mark.parametrize("index", ["index"], indirect=True)


def compact(index):
    if isinstance(index, Index):
        index.compact(retrain=True)
    else:
        with index.bulk():
            pass


def add_tea(index):
    index.add(
        ["tea#1", "tea#2", "other"],
        rows(3),
        ["steep", "drink", "text"],
        sources=[TEA, TEA, None],
        positions=[{"lines": [1, 2]}, {"lines": [4, 4], "headings": ["Tea", "Ä"]}, None],
    )


def test_hit_says_its_source_and_position(index):
    add_tea(index)

    hits = [*index.search(ROWS, doc_ids=["tea#2"]), *index.search_keywords("drink")]

    for hit in hits:
        assert (hit.source, hit.position) == ("notes/tea.md", {"lines": [4, 4], "headings": ["Tea", "Ä"]})
    assert json.loads(json.dumps(vars(hits[0])))["position"]["headings"] == ["Tea", "Ä"]
    assert index.search(ROWS, doc_ids=["other"])[0] == Hit(1, 2.0, "other", "text")


def test_what_came_from_a_source_is_one_question(index):
    add_tea(index)

    assert index.passages_of("notes/tea.md") == ["tea#1", "tea#2"]
    assert index.passages_of("notes/none.md") == []
    assert index.sources() == [TEA]


def test_replaced_source_has_the_listed_passages_and_no_others(index):
    add_tea(index)
    changed = Source("notes/tea.md", "/home/ann/notes", "sha256:11", 5, 9)

    index.replace_sources(
        {changed: {"tea#1": {"lines": [3, 4]}, "tea#3": None}}, ["tea#3"], rows(1), ["new"], [{"n": 1}]
    )

    assert index.passages_of("notes/tea.md") == ["tea#1", "tea#3"]
    assert "tea#2" not in index and "other" in index
    assert (index.get("tea#1").text, index.get("tea#1").position) == ("steep", {"lines": [3, 4]})
    assert (index.get("tea#3").source, index.get("tea#3").metadata) == ("notes/tea.md", {"n": 1})
    assert (index.sources(), problems_of(index)) == ([changed], [])
    assert index.search_keywords("drink") == []


def test_sources_are_replaced_together_or_not_at_all(index):
    add_tea(index)

    with pytest.raises(UnknownIdError, match="page#1"):
        index.replace_sources({TEA: {}, PAGE: {"page#1": None}})

    assert index.passages_of("notes/tea.md") == ["tea#1", "tea#2"]
    assert index.sources() == [TEA]


def test_source_without_passages_is_forgotten(index):
    add_tea(index)
    index.replace_sources({TEA: {}})
    assert (index.sources(), len(index)) == ([], 1)

    index.upsert(["a"], rows(1), sources=[PAGE])
    index.delete(["a"])
    assert index.sources() == []

    index.upsert(["a"], rows(1), sources=[PAGE])
    index.upsert(["a"], rows(1))
    assert (index.sources(), index.get("a").source, problems_of(index)) == ([], None, [])


def test_passage_moves_to_the_source_that_replaces_it(index):
    add_tea(index)

    index.replace_sources({PAGE: {"tea#1": {"page": 3}, "tea#2": None}}, ["tea#2"], rows(1))

    assert index.passages_of(PAGE.uri) == ["tea#1", "tea#2"]
    assert (index.get("tea#1").position, index.sources(), problems_of(index)) == ({"page": 3}, [PAGE], [])


def test_passage_that_one_source_loses_and_another_gets_stays(index):
    add_tea(index)

    index.replace_sources({TEA: {"tea#2": None}, PAGE: {"tea#1": None}})

    assert (index.passages_of(PAGE.uri), index.passages_of(TEA.uri)) == (["tea#1"], ["tea#2"])
    assert problems_of(index) == []


def test_passages_are_compared_with_their_source(index):
    add_tea(index)
    ids, texts = ["tea#1", "other"], ["steep", "text"]

    assert index.compare(ids, texts, sources=[TEA, PAGE]) == {"tea#1": True, "other": True}
    assert index.compare(ids, texts, sources=[PAGE, None]) == {"tea#1": False, "other": True}


def test_source_is_deleted(index):
    add_tea(index)

    assert index.delete(source="notes/tea.md") == 2
    assert index.delete(source="notes/tea.md") == 0
    assert (len(index), index.sources(), problems_of(index)) == (1, [], [])


def test_source_and_position_survive_metadata_merges_and_compaction(index):
    add_tea(index)
    index.update_metadata(["tea#2"], [{"n": 1}])
    for i in range(20):
        index.add([str(i)], rows(1))
    compact(index)

    passage = index.get("tea#2")
    assert (passage.source, passage.position["lines"], passage.metadata) == (TEA.uri, [4, 4], {"n": 1})
    assert problems_of(index) == []


SINGLE_CHANGES = {
    "delete": lambda index: index.delete(["tea#1"]),
    "delete by filter": lambda index: index.delete(filter="n = 1"),
    "upsert": lambda index: index.upsert(["tea#1"], rows(1)),
    "metadata": lambda index: index.update_metadata(["tea#1"], [{"n": 2}]),
    "move": lambda index: index.replace_sources({PAGE: {"tea#1": None}}),
}


@pytest.mark.parametrize("change", SINGLE_CHANGES)
def test_source_whose_passages_change_one_by_one_loses_its_content_hash(index, change):
    add_tea(index)
    index.update_metadata(["tea#1"], [{"n": 1}])
    index.replace_sources({TEA: {"tea#1": None, "tea#2": None}})
    assert index.sources() == [TEA]

    SINGLE_CHANGES[change](index)

    assert {source.uri: source.content_hash for source in index.sources()}[TEA.uri] is None
    assert problems_of(index) == []


def test_other_changes_keep_the_content_hash(index):
    add_tea(index)
    index.upsert(["other", "new"], rows(2))
    index.delete(["other"])
    compact(index)
    assert index.sources() == [TEA]


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({"line": 1}, "Give a dict with the keys lines, page"),
        ({"lines": [0, 1]}, "'lines' is"),
        ({"lines": [1]}, "'lines' is"),
        ({"page": True}, "'page' is True"),
        ({"headings": "Tea"}, "'headings' is 'Tea'"),
        ({"headings": ["\ud800"]}, "'headings' is"),
        ([1], "Give a dict"),
    ],
)
def test_position_that_cannot_be_is_refused(index, position, message):
    with pytest.raises(InputError, match=f"the position of passage 'a'.*{message}"):
        index.add(["a"], rows(1), positions=[position])


@pytest.mark.parametrize(
    "source",
    ["notes/tea.md", Source(""), Source("a", n_bytes="1"), Source("a", modified_ns=2**63), Source("\ud800")],
)
def test_source_that_cannot_be_is_refused(index, source):
    with pytest.raises(InputError, match="source of passage 'a'"):
        index.add(["a"], rows(1), sources=[source])
    assert len(index) == 0


def test_passages_of_no_source_or_of_two_are_refused(index):
    with pytest.raises(InputError, match="passage 'x' is in doc_ids, but no source lists it"):
        index.replace_sources({TEA: {}}, ["x"], rows(1))
    with pytest.raises(InputError, match="passage 'x' is listed for two sources"):
        index.replace_sources({TEA: {"x": None}, PAGE: {"x": None}}, ["x"], rows(1))


CHANGES = {
    "text": "UPDATE contents SET text = 'steeq' WHERE text = 'steep'",
    "metadata": "UPDATE contents SET metadata = '{}' WHERE text = 'steep'",
    "position": "UPDATE contents SET position = '{\"lines\": [1, 3]}' WHERE text = 'steep'",
    "source of a passage": "UPDATE contents SET source = NULL WHERE text = 'steep'",
    "id": "UPDATE passages SET doc_id = 'tea#0' WHERE doc_id = 'tea#1'",
    "places": "UPDATE passages SET ordinal = 9 - ordinal; UPDATE passages SET ordinal = ordinal - 7",
    "source": "UPDATE sources SET uri = 'notes/teb.md'",
    "text that is not UTF-8": "UPDATE contents SET text = CAST(x'737465ff' AS TEXT) WHERE text = 'steep'",
}


@OF_FILES
@pytest.mark.parametrize("change", CHANGES)
def test_altered_row_is_refused_where_it_is_read_and_found_by_verify(index, change):
    add_tea(index)
    index.close()
    with closing(sqlite3.connect(index.path / "catalog.db")) as connection:
        connection.executescript(CHANGES[change])

    with Index.open(index.path, backend="numpy") as opened:
        assert opened.verify() != []
        for ask in (lambda: opened.search(ROWS), lambda: opened.search_keywords("steep drink")):
            with pytest.raises(IndexDamagedError, match=r"catalog\.db"):
                ask()


@OF_FILES
def test_changed_setting_is_refused(index):
    index.close()
    with closing(sqlite3.connect(index.path / "catalog.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = '300001' WHERE name = 'exact_tokens'")

    with pytest.raises(IndexDamagedError, match="settings, segments or files do not match"):
        Index.open(index.path)


def test_exchanged_segments_and_lengths_are_refused(tmp_path):
    def make(name):
        with Index.create(tmp_path / name, 2, backend="numpy") as made:
            made.add(["a"], rows(1))
            made.add(["b"], rows(1))
        return tmp_path / name

    path = make("one")
    first, second, kept = path / "segment-000001", path / "segment-000002", path / "kept"
    for part in ("", "doc_lengths.npy", "vectors.npy"):
        (first / part).rename(kept)
        (second / part).rename(first / part)
        kept.rename(second / part)
        with pytest.raises(IndexDamagedError, match=r"its \.npy header differs"):
            Index.open(path)
        (first / part).rename(kept)
        (second / part).rename(first / part)
        kept.rename(second / part)
    # The same segment of another index.
    shutil.rmtree(first)
    shutil.copytree(make("two") / "segment-000001", first)
    with pytest.raises(IndexDamagedError, match=r"doc_lengths\.npy: its \.npy header differs"):
        Index.open(path)


@OF_FILES
def test_verify_finds_keywords_that_are_not_those_of_the_texts(index):
    add_tea(index)
    with closing(sqlite3.connect(index.path / "catalog.db")) as connection, connection:
        connection.execute("INSERT INTO keywords (keywords, rowid, text) VALUES ('delete', 1, 'steep')")
        connection.execute("INSERT INTO keywords (rowid, text) VALUES (1, 'steeq')")

    assert [problem for problem in problems_of(index) if "keywords do not match the texts" in problem]


@OF_FILES
def test_verify_finds_a_changed_table(index):
    with closing(sqlite3.connect(index.path / "catalog.db")) as connection, connection:
        connection.execute("CREATE INDEX strange ON contents (text)")

    assert [problem for problem in problems_of(index) if "has an index 'strange'" in problem]


@OF_FILES
def test_keyword_score_that_is_not_a_number_is_refused(index):
    index.add(["a", "b", "c"], rows(3), ["steep", "steep", "steep"])
    with closing(sqlite3.connect(index.path / "catalog.db")) as connection, connection:
        # The number of texts, and of their words: fewer texts than have the word.
        connection.execute("UPDATE keywords_data SET block = x'0103' WHERE id = 1")

    assert problems_of(index) != []
    with pytest.raises(IndexDamagedError, match="the score of a passage is not a number"):
        index.search_keywords("steep")


def test_renamed_source_keeps_the_vectors_and_gets_new_ids(index):
    add_tea(index)
    moved = Source("drinks/tea.md", "/home/ann/drinks", "sha256:00", 3, 2)
    vectors = index.search(ROWS, doc_ids=["tea#1"])[0].score

    names = {"tea#1": "tea#2", "tea#2": "new"}
    index.rename_sources({"notes/tea.md": moved}, names, [{"path": "tea.md"}, None])

    assert index.passages_of("drinks/tea.md") == ["tea#2", "new"]
    assert (index.sources(), index.passages_of("notes/tea.md")) == ([moved], [])
    stored = index.get("tea#2")
    assert (stored.text, stored.metadata, stored.position) == ("steep", {"path": "tea.md"}, {"lines": [1, 2]})
    assert index.search(ROWS, doc_ids=["tea#2"])[0].score == vectors
    assert [hit.doc_id for hit in index.search_keywords("drink")] == ["new"]
    assert problems_of(index) == []


def test_source_that_is_moved_over_another_takes_its_place(index):
    add_tea(index)
    index.add(["page#1"], rows(1), ["words"], sources=[PAGE])

    index.rename_sources({"notes/tea.md": PAGE}, {"tea#1": "page#1", "tea#2": "page#2"})

    assert index.passages_of(PAGE.uri) == ["page#1", "page#2"]
    assert (index.sources(), index.get("page#1").text, problems_of(index)) == ([PAGE], "steep", [])


def test_sources_may_exchange_their_names(index):
    add_tea(index)
    index.add(["page#1"], rows(1), ["words"], sources=[PAGE])
    swapped = {TEA.uri: Source(PAGE.uri, n_bytes=1), PAGE.uri: Source(TEA.uri, n_bytes=2)}

    index.rename_sources(swapped, {"tea#1": "page#1", "page#1": "tea#1"})

    assert index.passages_of(PAGE.uri) == ["page#1", "tea#2"]
    assert [index.get(doc_id).text for doc_id in ("page#1", "tea#1")] == ["steep", "words"]
    assert [source.n_bytes for source in index.sources()] == [1, 2]
    assert problems_of(index) == []


def test_file_that_was_only_touched_gets_a_new_time_and_nothing_else(index):
    add_tea(index)
    touched = Source("notes/tea.md", "/home/ann/notes", "sha256:00", 99, 2)

    index.rename_sources({"notes/tea.md": touched})

    assert (index.sources(), index.passages_of("notes/tea.md")) == ([touched], ["tea#1", "tea#2"])
    assert problems_of(index) == []


@pytest.mark.parametrize(
    ("sources", "doc_ids", "error", "words"),
    [
        ({"none": PAGE}, {}, InputError, "source 'none': no passage of index"),
        ({TEA.uri: PAGE}, {"other": "x"}, UnknownIdError, "other"),
        ({TEA.uri: PAGE}, {"tea#1": "other"}, DuplicateIdError, "'other': exists already"),
        ({TEA.uri: PAGE}, {"tea#1": "tea#2"}, DuplicateIdError, "'tea#2': exists already"),
        ({TEA.uri: PAGE}, {"tea#1": "x", "tea#2": "x"}, DuplicateIdError, "given twice"),
        ({TEA.uri: PAGE, "x": PAGE}, {}, InputError, "two sources would become 'https"),
        ({TEA.uri: None}, {}, InputError, "a source has the type NoneType"),
    ],
)
def test_source_that_cannot_be_renamed_stays_as_it_was(index, sources, doc_ids, error, words):
    add_tea(index)

    with pytest.raises(error, match=words):
        index.rename_sources(sources, doc_ids)

    assert (index.sources(), index.passages_of(TEA.uri)) == ([TEA], ["tea#1", "tea#2"])
    assert problems_of(index) == []


def test_heading_finds_its_passages(index):
    add_tea(index)

    assert [hit.doc_id for hit in index.search_keywords("tea")] == ["tea#2"]
    assert [hit.doc_id for hit in index.search_keywords('"tea" drink')] == ["tea#2"]


def test_passage_under_another_heading_is_found_by_that_one_alone(index):
    add_tea(index)

    index.replace_sources({TEA: {"tea#2": {"headings": ["Coffee"]}}})

    assert [hit.doc_id for hit in index.search_keywords("coffee")] == ["tea#2"]
    assert (index.search_keywords("tea"), problems_of(index)) == ([], [])
    index.delete(["tea#2"])
    assert (index.search_keywords("coffee"), problems_of(index)) == ([], [])


DATED = [
    Source("notes/a.md", modified_ns=1_714_521_600_000_000_000),  # 2024-05-01T00:00:00Z
    Source("notes/é/B.md", modified_ns=1_717_199_999_999_999_999),  # the last second of May
    Source("http://x/y"),
    None,
]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("source.uri glob 'notes/*'", [0, 1]),
        ("source.uri glob 'NOTES/*'", []),
        ("source.uri like 'NOTES/%'", [0, 1]),
        ("source.uri glob 'notes/e\u0301/*'", [1]),
        ("source.uri glob '*.md'", [0, 1]),
        ("source.uri not glob 'notes/*'", [2]),
        ("not source.uri glob 'notes/*'", [2, 3]),
        ("source.uri in ('http://x/y', 'z')", [2]),
        ("source.modified >= '2024-05-01'", [0, 1]),
        ("source.modified between '2024-05-02' and '2024-06'", [1]),
        ("source.modified = '2024-05-31T23:59:59Z'", [1]),
        ("source.modified < '2024-05-01'", []),
        ("not exists(source.modified)", [2, 3]),
        ("exists(source.uri) and n > 0", [1, 2]),
        ("source.uri = 5", []),
        ("source.uri contains 'z'", []),
        ("source.uri not contains 'z'", [0, 1, 2]),
        ("\"source\".uri = 'mine'", [3]),
        ("source = 'x'", []),
    ],
)
def test_filter_reads_the_source(index, filter, expected):
    metadata = [{"n": 0}, {"n": 1}, {"n": 2}, {"source": {"uri": "mine"}}]
    index.add([f"d{i}" for i in range(4)], rows(4), ["word"] * 4, metadata, sources=DATED)

    assert index.ids(filter=filter) == [f"d{i}" for i in expected]
    for hits in (index.search(ROWS, filter=filter), index.search_keywords("word", filter=filter)):
        assert sorted(hit.doc_id for hit in hits) == [f"d{i}" for i in expected]


def test_filter_of_a_source_says_why_it_finds_nothing(index):
    index.add(["a"], rows(1), sources=[PAGE])

    assert index.filter_problems("source.uri = 'x'") == []
    assert index.filter_problems("exists(source.modified)") == ["No passage has a 'source.modified'."]
    (problem,) = index.filter_problems("source.uri = 5")
    assert problem.startswith("'source.uri' is text in this index, and the filter compares it with a number.")
