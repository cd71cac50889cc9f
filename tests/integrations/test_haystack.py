"""Haystack: its own suites for document stores, filters as Haystack reads them, pipelines as YAML."""

from __future__ import annotations

import asyncio
import pickle
from datetime import datetime

import pytest

pytest.importorskip("haystack", reason="the extra [haystack] is not installed")

from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.testing import document_store as suites
from haystack.utils.filters import document_matches_filter
from word_model import WordModel

from mlx_colbert import Filter, errors
from mlx_colbert.integrations.haystack import (
    ColBERTDocumentStore,
    ColBERTRanker,
    ColBERTRetriever,
)
from mlx_colbert.integrations.haystack_filter import haystack_filter

# Version 2.20 has no suites yet for deletion, changes and counts by filters.
MORE_SUITES = tuple(
    getattr(suites, name)
    for name in ("DeleteAllTest", "DeleteByFilterTest", "UpdateByFilterTest", "CountDocumentsByFilterTest")
    if hasattr(suites, name)
)


class TestDocumentStoreSuite(suites.DocumentStoreBaseTests, *MORE_SUITES):
    """Haystack's suites for document stores."""

    @pytest.fixture
    def document_store(self, tmp_path):
        store = ColBERTDocumentStore(tmp_path / "new", WordModel())
        yield store
        store.retriever.close()

    @staticmethod
    def assert_documents_are_equal(received, expected):
        # The store keeps no embeddings of others, and has an order of its own.
        def told(documents):
            return sorted(
                (document.id, document.content, str(sorted(document.meta.items()))) for document in documents
            )

        assert told(received) == told(expected)

    def test_write_documents(self, document_store):
        documents = [Document(content="tea"), Document(content="bees", meta={"year": 2020})]

        assert document_store.write_documents(documents) == 2
        self.assert_documents_are_equal(document_store.filter_documents(), documents)
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents(documents)


METADATA = [
    {},
    {"n": None},
    {"n": 1},
    {"n": 2.5, "s": "a"},
    {"n": 3, "s": "b"},
    {"s": "", "day": "2024-01-31"},
    {"day": "2024-02-01T10:00:00", "inner": {"x y": "deep"}},
]
F = "meta.n"
FILTERS = [
    {"field": F, "operator": "==", "value": 1},
    {"field": F, "operator": "!=", "value": 1},
    {"field": F, "operator": "==", "value": None},
    {"field": F, "operator": "!=", "value": None},
    {"field": F, "operator": ">", "value": 1},
    {"field": F, "operator": ">=", "value": 2.5},
    {"field": F, "operator": "<", "value": 3},
    {"field": F, "operator": "<=", "value": None},
    {"field": F, "operator": "in", "value": [1, 3, None]},
    {"field": F, "operator": "not in", "value": [1, 3]},
    {"field": F, "operator": "in", "value": []},
    {"field": F, "operator": "not in", "value": []},
    {"field": "s", "operator": "==", "value": "a"},
    {"field": "meta.s", "operator": "!=", "value": ""},
    {"field": "meta.inner.x y", "operator": "==", "value": "deep"},
    {"field": "meta.day", "operator": ">", "value": "2024-01-31"},
    {
        "operator": "NOT",
        "conditions": [
            {"field": F, "operator": ">", "value": 1},
            {"field": "meta.s", "operator": "==", "value": "a"},
        ],
    },
    {
        "operator": "OR",
        "conditions": [
            {"field": F, "operator": "==", "value": 1},
            {"operator": "AND", "conditions": [{"field": "meta.s", "operator": "in", "value": ["b", ""]}]},
        ],
    },
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_filter_finds_what_haystack_itself_finds(tmp_path, filters):
    store = ColBERTDocumentStore(tmp_path / "new", WordModel())
    documents = [
        Document(id=str(number), content=f"text {number}", meta=meta) for number, meta in enumerate(METADATA)
    ]
    store.write_documents(documents)

    found = {document.id for document in store.filter_documents(filters)}

    assert found == {document.id for document in documents if document_matches_filter(filters, document)}
    store.retriever.close()


def test_a_date_is_compared_as_text():
    found = haystack_filter({"field": "meta.day", "operator": "<", "value": datetime(2024, 2, 1)})

    assert found == Filter('"day" < ?', "2024-02-01T00:00:00")


@pytest.mark.parametrize(
    "filters",
    [
        {"field": "content", "operator": "==", "value": "a"},
        {"field": "meta.a", "operator": "like", "value": "a"},
        {"field": "meta.a", "operator": "==", "value": [1]},
        {"field": "meta.a", "operator": ">", "value": "old"},
        {"operator": "XOR", "conditions": [{}]},
        {"operator": "AND", "conditions": []},
        {"operator": "AND", "conditions": ["a"]},
    ],
    ids=str,
)
def test_filter_that_cannot_be_used_is_our_error_and_haystacks(filters):
    with pytest.raises(FilterError) as raised:
        haystack_filter(filters)

    assert isinstance(raised.value, errors.InputError)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.fixture(autouse=True)
def _trusted(monkeypatch):
    # From version 3 on, Haystack makes only objects of modules that its user trusts.
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "mlx_colbert.integrations.haystack")


@pytest.fixture
def store(tmp_path, model_folder):
    made = ColBERTDocumentStore(tmp_path / "store", str(model_folder), nbits=2)
    made.write_documents(
        [
            Document(
                id="tea", content="Steep black tea for three minutes.", meta={"year": 2020, "is_hot": True}
            ),
            Document(id="bees", content="Bees dance to show the way.", meta={"year": 2019}),
            Document(id="coal", content="Coal is black.", meta={"year": 2019}),
        ]
    )
    yield made
    made.retriever.close()


def test_pipelines_are_written_as_yaml_and_read_again(store, model_folder):
    pipeline = Pipeline()
    filters = {"field": "meta.year", "operator": ">=", "value": 2019}
    retriever = ColBERTRetriever(store, filters=filters, filter_policy=FilterPolicy.MERGE, top_k=3)
    pipeline.add_component("retriever", retriever)
    pipeline.add_component("ranker", ColBERTRanker(model_folder, top_k=2))
    pipeline.connect("retriever", "ranker")
    inputs = {"retriever": {"query": "how do bees dance"}, "ranker": {"query": "how do bees dance"}}
    expected = pipeline.run(inputs)["ranker"]["documents"]

    written = pipeline.dumps()
    again = Pipeline.loads(written)

    assert again.dumps() == written
    assert again.run(inputs)["ranker"]["documents"] == expected
    assert len(expected) == 2 and expected[0].score >= expected[1].score
    again.get_component("retriever").document_store.retriever.close()


def test_indexing_pipeline_writes_into_the_store_and_is_read_again(tmp_path, model_folder):
    pipeline = Pipeline()
    pipeline.add_component("writer", DocumentWriter(ColBERTDocumentStore(tmp_path / "new", model_folder)))
    again = Pipeline.loads(pipeline.dumps())

    done = again.run({"writer": {"documents": [Document(id="tea", content="Tea.", meta={"a": [1]})]}})

    assert done == {"writer": {"documents_written": 1}}
    (found,) = ColBERTDocumentStore(tmp_path / "new").filter_documents()
    assert (found.id, found.content, found.meta) == ("tea", "Tea.", {"a": [1]})


def test_retriever_finds_what_ours_finds_and_filters_of_a_call_replace_or_join(store):
    old = {"field": "meta.year", "operator": "==", "value": 2019}
    hot = {"field": "meta.is_hot", "operator": "==", "value": True}
    hits = store.retriever.search("black", 3)

    found = ColBERTRetriever(store, top_k=3).run("black")["documents"]
    replaced = ColBERTRetriever(store, filters=old).run("black", filters=hot)["documents"]
    joined = ColBERTRetriever(store, filters=old, filter_policy=FilterPolicy.MERGE).run("black", filters=hot)

    assert [(document.id, document.score) for document in found] == [(hit.doc_id, hit.score) for hit in hits]
    assert [document.id for document in replaced] == ["tea"]
    assert joined == {"documents": []}


def test_asynchronous_calls_give_the_same(store, model):
    retriever, ranker = ColBERTRetriever(store), ColBERTRanker(model)
    retriever.warm_up()
    documents = retriever.run("bees", top_k=2)["documents"]

    async def run():
        await store.write_documents_async([Document(id="new", content="New.")])
        counted = await store.count_documents_async()
        listed = await store.filter_documents_async({"field": "meta.year", "operator": "==", "value": None})
        await store.delete_documents_async(["new", "unknown"])
        return (
            counted,
            [document.id for document in listed],
            await retriever.run_async("bees", top_k=2),
            await ranker.run_async("bees", documents),
        )

    counted, listed, found, ranked = asyncio.run(run())

    assert (counted, listed, store.count_documents()) == (4, ["new"], 3)
    assert (found, ranked) == ({"documents": documents}, ranker.run("bees", documents))


def test_changes_by_filter_reach_only_what_satisfies_it(store):
    old, new = ({"field": "meta.year", "operator": "==", "value": year} for year in (2019, 2021))

    assert store.update_by_filter(old, {"year": 2021, "seen": True}) == 2
    assert store.update_by_filter(old, {"year": 2022}) == 0
    assert [store.count_documents_by_filter(filters) for filters in (old, new)] == [0, 2]
    assert store.retriever.store.get("tea").metadata == {"year": 2020, "is_hot": True}
    assert store.retriever.store.get("bees").metadata == {"year": 2021, "seen": True}

    async def run():
        counted = await store.count_documents_by_filter_async(new)
        changed = await store.update_by_filter_async(new, {"seen": False})
        deleted = await store.delete_by_filter_async(new)
        left = store.count_documents()
        await store.delete_all_documents_async()
        return counted, changed, deleted, left, store.count_documents()

    assert asyncio.run(run()) == (2, 2, 2, 1, 0)


def test_ranker_orders_documents_and_does_not_change_them(model):
    documents = [Document(content="Coal is black."), Document(content="Bees dance."), Document(content=None)]

    ranked = ColBERTRanker(model).run("how do bees dance", documents, top_k=2)["documents"]

    expected = model.rerank("how do bees dance", ["Coal is black.", "Bees dance.", ""], 2)
    assert [document.id for document in ranked] == [documents[int(hit.doc_id)].id for hit in expected]
    assert [document.score for document in ranked] == [hit.score for hit in expected]
    assert [document.score for document in documents] == [None] * 3
    assert ColBERTRanker(model).run("why", []) == {"documents": []}


def test_collection_is_a_source_with_file_and_line(collection, tmp_path):
    retriever = ColBERTRetriever.from_dict(ColBERTRetriever(collections=[collection], top_k=1).to_dict())

    (found,) = retriever.run("how do bees dance")["documents"]

    path = (tmp_path / "notes" / "bees.md").resolve()
    assert found.meta["location"].startswith(f"{path}:")
    assert found.meta["source"] == "notes/bees.md"
    retriever._searched.close()


def test_policies_within_one_call(store):
    twice = [Document(id="a", content="one"), Document(id="a", content="two")]

    with pytest.raises(DuplicateDocumentError) as raised:
        store.write_documents(twice, DuplicatePolicy.FAIL)
    assert isinstance(raised.value, errors.DuplicateIdError)
    assert store.write_documents(twice, DuplicatePolicy.SKIP) == 1
    assert store.retriever.store.get("a").text == "one"
    assert store.write_documents(twice, DuplicatePolicy.OVERWRITE) == 2
    assert store.retriever.store.get("a").text == "two"


def test_errors_of_users_are_ours(tmp_path, store):
    with pytest.raises(errors.InputError, match="index=FOLDER, or collections"):
        ColBERTRetriever()
    with pytest.raises(errors.InputError, match="Give one of them"):
        ColBERTRetriever(store, collections=["a"])
    with pytest.raises(errors.IndexNotFoundError):
        ColBERTDocumentStore(tmp_path / "none").count_documents()
    with pytest.raises(errors.InputError, match="has no content"):
        store.write_documents([Document(id="a", content=None)])
    with pytest.raises(errors.InputError, match="delete needs"):
        store.delete_by_filter({})
    assert store.count_documents() == 3
    with pytest.raises(errors.InputError, match=r"^k "):
        ColBERTRetriever(store).run("why", top_k=0)
    with pytest.raises(errors.CheckpointNotFoundError):
        ColBERTRanker(tmp_path / "none").warm_up()
