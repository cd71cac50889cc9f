"""The retriever on a real index, with a model that hashes words."""

import datetime
import math
import pickle

import numpy as np
import pytest
from word_model import WordModel

from mlx_colbert.errors import (
    CheckpointNotFoundError,
    DuplicateIdError,
    IndexNotFoundError,
    InputError,
    ModelMismatchError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.index import Filter, Index, SearchParams
from mlx_colbert.model import batching
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Source

TEXTS = ["tea is steeped", "coffee is brewed", "water boils"]
IDS = ["tea", "coffee", "water"]


# For a test of an index folder.
OF_FILES = pytest.mark.parametrize("retriever", ["index"], indirect=True)


@pytest.fixture
def filled(retriever):
    retriever.add(TEXTS, IDS, metadata=[{"n": 0}, None, {"n": 2}])
    return retriever


def test_search_finds_the_document_with_the_words_of_the_query(filled):
    hits = filled.search("coffee brewed", k=2)
    assert (hits[0].doc_id, hits[0].text, hits[0].rank) == ("coffee", "coffee is brewed", 1)
    assert hits[0].score == pytest.approx(2.0, abs=2e-3)  # float16 rows
    assert len(hits) == 2


def test_several_queries_give_a_list_of_hits_each(filled):
    found = filled.search(["tea", "water"], k=1)
    assert [[hit.doc_id for hit in hits] for hits in found] == [["tea"], ["water"]]


def test_hits_carry_metadata(filled):
    assert filled.search("tea", k=1)[0].metadata == {"n": 0}


def test_more_hits_than_documents_are_all_documents(filled):
    assert len(filled.search("tea", k=50)) == 3


def test_length_and_membership_are_those_of_the_index(filled):
    assert (len(filled), "tea" in filled, "milk" in filled) == (3, True, False)


def test_ids_are_made_up_where_none_are_given(retriever):
    ids = retriever.add(["same text", "same text"])
    assert len(set(ids)) == 2 and all(doc_id in retriever for doc_id in ids)


def test_upsert_replaces_what_exists_and_adds_the_rest(filled):
    assert filled.upsert(["tea is iced", "milk"], ["tea", "milk"]) == ["tea", "milk"]
    assert len(filled) == 4
    assert filled.search("iced", k=1)[0].text == "tea is iced"


def test_delete_takes_documents_out(filled):
    filled.delete(["tea"])
    assert "tea" not in filled


def test_delete_of_an_unknown_id_deletes_nothing(filled):
    with pytest.raises(UnknownIdError, match="milk"):
        filled.delete(["tea", "milk"])
    assert len(filled) == 3


def test_rerank_orders_the_given_documents_only(filled):
    hits = filled.rerank("water boils", ["tea", "water"])
    assert [(hit.rank, hit.doc_id, hit.metadata) for hit in hits] == [
        (1, "water", {"n": 2}),
        (2, "tea", {"n": 0}),
    ]


def test_rerank_of_an_unknown_id_is_an_error(filled):
    with pytest.raises(UnknownIdError, match="milk"):
        filled.rerank("tea", ["milk"])


@pytest.mark.parametrize(
    ("texts", "doc_ids", "metadata", "message"),
    [
        ([], None, None, "texts is empty"),
        ("tea", None, None, "single string"),
        (["tea", 3], None, None, "text 1 must be a string, got int"),
        (["\ud800"], None, None, "surrogate"),
        (["tea"], ["a", "b"], None, "1 text, but 2 doc_ids"),
        (["tea"], "a", None, "single string"),
        (["tea"], [1], None, "doc_id 1 must be a string, got int"),
        (["tea"], [""], None, "doc_id '' is blank"),
        (["tea", "milk"], ["a", "a"], None, "'a'.*given twice"),
        (["tea"], None, [{}, {}], "1 text, but 2 metadata"),
        (["tea"], None, ["x"], "metadata 0 must be a dict, got str"),
        (["tea"], None, [{"x": float("nan")}], "metadata 0, key 'x' is a number that JSON cannot store"),
        (["tea"], None, [{1: "x"}], "metadata 0: the key 1 has the type int"),
        (
            ["tea"],
            None,
            [{"x": {"y": b""}}],
            "metadata 0, key 'x.y' has the type bytes, which cannot be stored",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_encoded(retriever, texts, doc_ids, metadata, message):
    with pytest.raises(InputError, match=message):
        retriever.add(texts, doc_ids, metadata=metadata)
    assert retriever.model.encoded == [] and len(retriever) == 0


def test_an_id_that_exists_is_refused_before_anything_is_encoded(filled):
    filled.model.encoded.clear()
    with pytest.raises(DuplicateIdError, match=r"'tea'.*upsert"):
        filled.add(["milk", "more tea"], ["milk", "tea"])
    assert filled.model.encoded == [] and "milk" not in filled


@pytest.mark.parametrize(
    ("query", "message"), [("", "blank"), ([], "empty"), (["tea", " "], "query 1"), ([3], "int")]
)
def test_a_query_without_text_is_an_error(filled, query, message):
    with pytest.raises(InputError, match=message):
        filled.search(query)


@pytest.mark.parametrize("k", [0, -1, True, 1.5, None])
def test_k_that_is_no_positive_integer_is_an_error(filled, k):
    with pytest.raises(InputError, match="k is"):
        filled.search("tea", k=k)


def test_windows_before_a_failure_are_kept_and_counted(retriever, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 2)
    with pytest.raises(RuntimeError, match="poison") as caught:
        retriever.add(["a", "b", "c", "poison", "e"], list("abcde"))
    assert len(retriever) == 2 and "c" not in retriever
    (note,) = caught.value.__notes__
    assert note == "The first 2 of 5 passages are in the index. Add the others to continue."


@OF_FILES
def test_reopened_retriever_finds_the_same(tmp_path, filled, model):
    before = filled.search("tea", k=3)
    filled.close()
    with Retriever.open(tmp_path / "index", model, backend="numpy") as again:
        assert again.search("tea", k=3) == before


def test_the_recorded_model_is_loaded(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        ColBERT, "load", lambda source, *, backend, revision=None: WordModel(source=str(source))
    )
    Retriever.create("index", "model", backend="numpy").close()
    monkeypatch.chdir(folder)
    with Retriever.open(tmp_path / "index", backend="numpy") as again:
        assert again.model.source == str(folder.resolve())


@pytest.fixture
def without_model(tmp_path):
    """A retriever whose recorded model is not there any more."""
    with Retriever.create(
        tmp_path / "index", WordModel(source=str(tmp_path / "gone")), backend="numpy"
    ) as made:
        made.add(["green tea"], ["tea"])
    with Retriever.open(tmp_path / "index", backend="numpy") as retriever:
        yield retriever


def test_a_recorded_model_that_is_gone_is_named_with_the_way_out(without_model):
    with pytest.raises(CheckpointNotFoundError, match=r"gone.*model=… or --model"):
        without_model.search("tea")


def test_what_needs_no_model_works_without_it(without_model):
    assert [hit.doc_id for hit in without_model.search("tea", mode="keyword")] == ["tea"]
    assert "not loaded yet" in repr(without_model)
    assert without_model.delete(["tea"]) == 1


def test_a_recorded_model_that_was_replaced_is_refused_when_it_is_loaded(tmp_path, monkeypatch):
    model = WordModel(source=str(tmp_path))
    Retriever.create(tmp_path / "index", model, backend="numpy").close()
    monkeypatch.setattr(ColBERT, "load", lambda *_, **__: WordModel("words-2"))
    with Retriever.open(tmp_path / "index", backend="numpy") as retriever:
        with pytest.raises(ModelMismatchError, match="words-1"):
            retriever.search("tea")


def test_an_index_without_a_recorded_model_asks_for_one(tmp_path):
    Index.create(tmp_path / "index", 16, backend="numpy").close()
    with pytest.raises(ValueError, match="does not record its model"):
        Retriever.open(tmp_path / "index", backend="numpy")


@OF_FILES
def test_another_model_is_refused(tmp_path, filled):
    with pytest.raises(ModelMismatchError, match="words-1"):
        Retriever.open(tmp_path / "index", WordModel("words-2"), backend="numpy")


def test_opening_nothing_is_an_error(tmp_path, model):
    with pytest.raises(IndexNotFoundError):
        Retriever.open(tmp_path / "nothing", model, backend="numpy")


def test_creating_over_an_index_is_an_error(tmp_path, filled, model):
    with pytest.raises(TargetExistsError):
        Retriever.create(tmp_path / "index", model, backend="numpy")


def write_rows(path, ids):
    path.write_text("".join(f'{{"id": "{doc_id}", "text": "{doc_id}"}}\n' for doc_id in ids))
    return path


def test_from_files_indexes_every_passage(tmp_path, model):
    rows = write_rows(tmp_path / "rows.jsonl", ["tea", "milk"])
    with Retriever.from_files(tmp_path / "index", model, [rows], backend="numpy") as made:
        assert len(made) == 2 and "milk" in made


def test_files_are_checked_before_the_model_is_asked_for(tmp_path, model):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "fine"}\n{"text": 3}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2"):
        Retriever.from_files(tmp_path / "index", model, [rows], backend="numpy")
    assert model.encoded == [] and not (tmp_path / "index").exists()


@pytest.mark.parametrize("existed", [False, True])
def test_failure_before_the_first_commit_leaves_the_folder_as_it_was(tmp_path, model, existed):
    if existed:
        (tmp_path / "index").mkdir()
    rows = write_rows(tmp_path / "rows.jsonl", ["tea", "poison"])
    with pytest.raises(RuntimeError, match="poison"):
        Retriever.from_files(tmp_path / "index", model, [rows], backend="numpy")
    assert (tmp_path / "index").exists() == existed
    assert not existed or not any((tmp_path / "index").iterdir())


def test_failure_after_a_commit_keeps_what_is_committed(tmp_path, model, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 1)
    rows = write_rows(tmp_path / "rows.jsonl", ["tea", "poison"])
    with pytest.raises(RuntimeError, match="poison"):
        Retriever.from_files(tmp_path / "index", model, [rows], backend="numpy")
    with Retriever.open(tmp_path / "index", model, backend="numpy") as again:
        assert len(again) == 1


def test_inputs_may_be_read_only_once(tmp_path, retriever):
    rows = write_rows(tmp_path / "rows.jsonl", ["tea", "milk"])
    assert retriever.add_files(path for path in [rows]) == len(retriever) == 2


def test_no_inputs_are_an_error(tmp_path, model):
    with pytest.raises(InputError, match="inputs is empty"):
        Retriever.from_files(tmp_path / "index", model, [])


def test_add_files_refuses_ids_that_exist_unless_told_to_replace_them(tmp_path, filled):
    rows = write_rows(tmp_path / "rows.jsonl", ["milk", "tea"])
    with pytest.raises(DuplicateIdError, match=r"'tea'.*exists already"):
        filled.add_files([rows])
    assert "milk" not in filled
    assert filled.add_files([rows], upsert=True) == 2
    assert len(filled) == 4


def test_retriever_of_another_model_is_refused_however_it_is_made(tmp_path):
    model = WordModel("words-1")
    Retriever.create(tmp_path / "index", model, backend="numpy").close()
    with Index.open(tmp_path / "index", backend="numpy") as index, pytest.raises(ModelMismatchError):
        Retriever(WordModel("words-2"), index)


@pytest.fixture
def places(tmp_path, model):
    texts = ["Black tea is steeped hot.", "Green tea is steeped warm.", "Rockets burn kerosene."]
    metadata = [{"kind": "drink", "minutes": 4}, {"kind": "drink", "minutes": 2}, None]
    with Retriever.create(tmp_path / "places", model, backend="numpy") as retriever:
        retriever.add(texts, ["black", "green", "rocket"], metadata)
        yield retriever


def test_filter_and_doc_ids_restrict_every_mode(places):
    for mode in ("semantic", "keyword", "hybrid"):
        drinks = places.search("steeped tea", mode=mode, filter=Filter("minutes < ?", 3))
        assert [hit.doc_id for hit in drinks] == ["green"]
        assert [hit.doc_id for hit in places.search("tea", mode=mode, doc_ids=["black"])] == ["black"]
        assert places.search("tea", mode=mode, filter="kind = 'food'") == []


def test_hybrid_is_the_fusion_of_both_rankings(places):
    semantic, keyword = (places.search("green tea", mode=mode) for mode in ("semantic", "keyword"))

    hits = places.search("green tea", mode="hybrid", weights=(1.0, 3.0))

    expected = {hit.doc_id: 1 / (60 + hit.rank) for hit in semantic}
    for hit in keyword:
        expected[hit.doc_id] += 3 / (60 + hit.rank)
    assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(expected)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert [hit.score for hit in hits] == sorted(expected.values(), reverse=True)


def test_weight_of_nothing_leaves_the_other_ranking(places):
    keyword = places.search("kerosene", mode="keyword")
    assert [hit.doc_id for hit in keyword] == ["rocket"]
    assert places.search("kerosene", k=1, mode="hybrid", weights=(0.0, 1.0))[0].doc_id == "rocket"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "fast"}, "mode is 'fast', not one of semantic, keyword, hybrid"),
        ({"mode": "hybrid", "weights": (0, 0)}, "weights are"),
        ({"mode": "hybrid", "weights": (-1, 1)}, "weights are"),
        ({"mode": "hybrid", "weights": (1, math.inf)}, "weights are"),
        ({"mode": "hybrid", "weights": (1,)}, "weights are"),
        ({"mode": "hybrid", "weights": "ab"}, "weights are"),
        ({"weights": (1, 2)}, "weights are only for mode 'hybrid', but mode is 'semantic'"),
        ({"mode": "keyword", "params": SearchParams()}, "params are only for a semantic search"),
        ({"doc_ids": "tea"}, "doc_ids is a single string"),
        ({"doc_ids": [3]}, "doc_id 3 must be a string"),
        ({"mode": "hybrid", "k": 0}, "k is 0"),
        ({"mode": "hybrid", "k": "many"}, "k is 'many'"),
        ({"filter": "kind ="}, "column"),
    ],
)
def test_unusable_search_settings_are_refused(places, settings, message):
    with pytest.raises(InputError, match=message):
        places.search("tea", **settings)


def test_documents_are_deleted_by_their_metadata(places):
    assert places.delete(filter="kind = 'drink'") == 2
    assert ("rocket" in places, len(places)) == (True, 1)
    with pytest.raises(InputError, match="doc_ids, a filter or a source"):
        places.delete()


def test_pool_factor_is_kept_for_later_documents(tmp_path, model):
    text = " ".join(f"tea number {number}" for number in range(8))
    with Retriever.create(tmp_path / "whole", model, backend="numpy") as retriever:
        retriever.add([text], ["a"])
        n_tokens = retriever.store.get("a").n_tokens
    Retriever.create(tmp_path / "pooled", model, pool_factor=2, backend="numpy").close()
    with Retriever.open(tmp_path / "pooled", model, backend="numpy") as retriever:
        assert "pool_factor" not in retriever.store.model
        retriever.add([text], ["a"])
        pooled = retriever.store.get("a").n_tokens

    assert n_tokens / 2 - 1 <= pooled <= n_tokens / 2 + 1


def test_many_documents_are_compressed_once_together(tmp_path, model, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 20)
    texts = [f"tea number {number}" for number in range(100)]
    with Retriever.create(tmp_path / "index", model, exact_tokens=0, backend="numpy") as retriever:
        retriever.add(texts, [str(number) for number in range(100)])
        info = retriever.store.info()
        assert (info.segments, info.compressed_passages, info.passages) == (1, 100, 100)
        retriever.add(["one more"], ["more"])
        assert retriever.store.info().compressed_passages == 100
        assert retriever.search("tea number 7", k=101)[0].score > 0
        assert len(retriever.search("tea number 7", k=101)) == 101


def test_doc_ids_of_a_search_may_be_an_iterator(retriever):
    retriever.add(["tea leaves", "tea pots", "coffee"], ["a", "b", "c"])

    listed = retriever.search("tea", mode="hybrid", doc_ids=["a", "b"])

    assert retriever.search("tea", mode="hybrid", doc_ids=iter(["a", "b"])) == listed
    assert {hit.doc_id for hit in listed} == {"a", "b"}


def test_weight_of_zero_leaves_a_ranking_out(retriever):
    retriever.add(["tea leaves", "pots", "coffee"], ["a", "b", "c"])

    hits = retriever.search("tea", mode="hybrid", weights=(0, 1))

    assert [hit.doc_id for hit in hits] == ["a"]


def test_rerank_refuses_an_id_that_is_given_twice(retriever):
    retriever.add(["tea leaves", "pots"], ["a", "b"])

    with pytest.raises(DuplicateIdError, match=r"'a'.*given twice"):
        retriever.rerank("tea", ["a", "b", "a"])


def test_integers_of_numpy_are_integers_everywhere(tmp_path, model):
    settings = {"nbits": np.int64(2), "exact_tokens": np.int32(9), "pool_factor": np.int8(1)}
    with Retriever.create(tmp_path / "index", model, backend="numpy", **settings) as retriever:
        retriever.add(TEXTS, IDS)
        assert len(retriever.search("tea", np.int64(1), params=SearchParams(n_candidates=np.int16(5)))) == 1
        assert len(retriever.rerank("tea", IDS, np.int64(2))) == 2


def test_lists_may_be_any_iterable_but_a_string(retriever):
    texts, ids = np.array(["tea is steeped", "water boils"]), (f"id {n}" for n in range(2))

    assert retriever.add(texts, ids, iter([{"n": 1}, None])) == ["id 0", "id 1"]

    assert [hits[0].doc_id for hits in retriever.search(("tea", "water"), 1)] == ["id 0", "id 1"]
    assert len(retriever.rerank("tea", iter(["id 0", "id 1"]))) == 2
    retriever.delete(iter(["id 0"]))
    assert len(retriever) == 1


def test_metadata_of_numpy_and_dates_are_stored_as_json(retriever):
    day = datetime.date(2024, 2, 29)
    given = {"n": np.int64(3), "x": np.float32(0.5), "ok": np.bool_(True), "day": day, "tags": ("a", "b")}
    given["at"] = np.datetime64("2024-02-29T12:00")

    retriever.add(["tea"], ["a"], [given])

    stored = {"n": 3, "x": 0.5, "ok": True, "day": "2024-02-29", "tags": ["a", "b"], "at": "2024-02-29T12:00"}
    assert retriever.store.get("a").metadata == stored
    assert len(retriever.search("tea", filter="day >= '2024-01-01' and n = 3")) == 1
    assert retriever.store.compare(["a"], ["tea"], [given]) == {"a": True}


def test_same_program_may_run_twice(tmp_path, model):
    for n_before in (0, 3):
        with Retriever.create(tmp_path / "index", model, backend="numpy", exist_ok=True) as retriever:
            assert len(retriever) == n_before
            retriever.upsert(TEXTS, IDS)


@OF_FILES
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nbits": 2}, "created with nbits 4, not 2"),
        ({"pool_factor": 2}, "created with pool_factor 1, not 2"),
    ],
)
def test_existing_index_of_other_settings_is_not_opened_for_them(tmp_path, filled, model, settings, message):
    with pytest.raises(TargetExistsError, match=message):
        Retriever.create(tmp_path / "index", model, backend="numpy", exist_ok=True, **settings)
    with pytest.raises(ModelMismatchError):
        Retriever.create(tmp_path / "index", WordModel("words-2"), backend="numpy", exist_ok=True)


@OF_FILES
def test_retriever_and_index_list_their_ids(filled):
    assert list(filled) == list(filled.index) == IDS


@OF_FILES
def test_repr_says_what_it_is(filled):
    path = str(filled.store.path)
    assert repr(filled.index) == f"<Index {path!r}: 3 passages of 16 components>"
    assert repr(filled).startswith("<Retriever: <") and repr(filled).endswith(f"{filled.index!r}>")
    filled.close()
    assert repr(filled.index) == f"<Index {path!r}: closed, or not readable>"


@OF_FILES
def test_pickling_says_to_open_in_each_process(filled):
    for value, advice in ((filled, "Retriever.open"), (filled.index, "Index.open")):
        with pytest.raises(TypeError, match=f"in each process: {advice}"):
            pickle.dumps(value)


def test_stored_passage_is_explained_with_the_headings_above_it(tmp_path, data):
    folder = data / "checkpoints" / "pylate-bert"
    with Retriever.create(tmp_path / "i", str(folder), backend="numpy") as retriever:
        source, places = Source("tea.md"), [{"headings": ["Green tea"]}]
        (doc_id,) = retriever.replace_source(source, ["Steep it."], positions=places)
        found = retriever.explain("green", doc_id)
        assert found == retriever.model.explain("green", "Green tea\nSteep it.")
        assert retriever.store.get(doc_id).n_tokens == len(
            retriever.model.encode_document("Green tea\nSteep it.")
        )
