"""What a keyword search of an index finds, through filters and changes."""

from __future__ import annotations

import numpy as np
import pytest
from searched import ids_of

from mlx_colbert.errors import InputError
from mlx_colbert.index import Index

TEXTS = {
    "fox": "The quick brown fox jumps over the lazy dog.",
    "dog": "A dog is quick; a fox is brown.",
    "code": "def get_user_id(name): raise KeyError",
    "user": "The user has an id, which they get later.",
    "cve": "CVE-2024-1234 affects C++ and foo.bar() of GPT-4.",
    "tokyo": "東京駅は人が多いです。",
    "kyoto": "京都駅から東へ歩く。",
    "nul": "before\x00after",
    "none": None,
    "empty": "",
}


@pytest.fixture
def worded(tmp_path):
    with Index.create(tmp_path / "index", 2, backend="numpy") as made:
        metadata = [{"letters": len(doc_id)} for doc_id in TEXTS]
        made.add(TEXTS, [np.eye(2)] * len(TEXTS), TEXTS.values(), metadata)
        yield made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("lazy brown", ["fox", "dog"]),
        ('"brown fox"', ["fox"]),
        ('"brown fox" is', ["fox"]),
        ('"fox brown"', []),
        ("get_user_id", ["code", "user"]),
        ('"get_user_id"', ["code"]),
        ("cve-2024-1234", ["cve"]),
        ("東京駅", ["tokyo"]),
        ("京", ["kyoto", "tokyo"]),
        ('"東京"', ["tokyo"]),
        ("after", ["nul"]),
        ("unicorn", []),
        ("", []),
        ("!!! ...", []),
    ],
)
def test_keywords_find_the_texts_they_occur_in(worded, query, found):
    hits = worded.search_keywords(query)

    assert ids_of(hits) == found
    assert [hit.rank for hit in hits] == list(range(1, len(found) + 1))
    assert all(hit.text == TEXTS[hit.doc_id] and hit.metadata for hit in hits)


@pytest.mark.parametrize(
    "query",
    [
        "AND",
        "fox AND",
        "NEAR(fox dog, 2)",
        "fox*",
        '"fox',
        "text:fox",
        "-fox",
        "(fox",
        "f'ox",
        "fox;--",
        "{a}:^",
    ],
)
def test_syntax_of_the_full_text_table_is_no_syntax_of_queries(worded, query):
    found = ids_of(worded.search_keywords(query))

    assert ("fox" in found) == ("fox" in query)


def test_keyword_scores_fall_and_ties_are_ordered_by_doc_id(worded):
    names = ["é", "b", "Z", "a", "10"]
    worded.add(names, [np.eye(2)] * 5, ["unicorns graze"] * 5)
    worded.add(["more"], [np.eye(2)], ["unicorns, unicorns!"])

    hits = worded.search_keywords("unicorns")

    assert ids_of(hits) == ["more", *sorted(names)]
    assert hits[0].score > hits[1].score == hits[5].score > 0
    assert ids_of(worded.search_keywords("unicorns", 3)) == ["more", "10", "Z"]


def test_keywords_take_filter_and_doc_ids(worded):
    assert ids_of(worded.search_keywords("fox dog", filter="letters = 3")) == ["dog", "fox"]
    assert ids_of(worded.search_keywords("fox dog", filter="letters = 4")) == []
    assert ids_of(worded.search_keywords("fox dog", doc_ids=["fox", "user", "?"])) == ["fox"]
    assert ids_of(worded.search_keywords("fox", filter="letters = 3", doc_ids=["user"])) == []


def test_filter_leaves_room_for_k_keyword_hits(worded):
    worded.add([f"many {i}" for i in range(300)], [np.eye(2)] * 300, ["fox fox fox"] * 300, [{"m": 1}] * 300)

    assert ids_of(worded.search_keywords("fox", 2, filter="not exists(m)")) == ["dog", "fox"]


def test_deleted_and_replaced_texts_are_not_found_by_their_words(worded):
    worded.delete(["fox"])
    worded.upsert(["dog", "none"], [np.eye(2)] * 2, ["a cat", "a hen"])

    assert ids_of(worded.search_keywords("fox dog quick")) == []
    assert sorted(ids_of(worded.search_keywords("cat hen"))) == ["dog", "none"]
    worded.delete(filter="letters = 5")
    assert ids_of(worded.search_keywords("東京")) == []
    worded.upsert(["code"], [np.eye(2)])
    assert ids_of(worded.search_keywords('"get_user_id"')) == []


def test_keywords_survive_compaction_metadata_and_a_new_process(worded):
    worded.delete(["dog"])
    worded.update_metadata(["fox"], [{"new": True}])
    worded.compact()
    worded.close()

    with Index.open(worded.path, backend="numpy") as index:
        (hit,) = index.search_keywords("fox")
        assert (hit.doc_id, hit.metadata) == ("fox", {"new": True})
        assert index.verify() == []


def test_unusable_keyword_searches_are_refused(worded):
    with pytest.raises(InputError, match="k is 0"):
        worded.search_keywords("fox", 0)
    for query in (3, None, b"fox", "\ud800"):
        with pytest.raises(InputError, match="the query"):
            worded.search_keywords(query)
