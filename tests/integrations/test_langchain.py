"""LangChain: its own suites for retrievers and vector stores, and what they do not cover."""

from __future__ import annotations

import asyncio
import json
import pickle

import pytest

pytest.importorskip("langchain_core", reason="the extra [langchain] is not installed")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.load import dumpd, dumps, load
from word_model import WordModel

from mlx_colbert import errors
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.integrations.langchain import ColBERTCompressor, ColBERTRetriever, ColBERTVectorStore
from mlx_colbert.retriever.retriever import Retriever

try:
    from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
except ImportError:
    RetrieversIntegrationTests = VectorStoreIntegrationTests = None


@pytest.mark.skipif(RetrieversIntegrationTests is None, reason="langchain-tests is not installed")
class TestRetrieverSuite(RetrieversIntegrationTests or object):
    """LangChain's suite for retrievers."""

    @pytest.fixture(autouse=True)
    def _index(self, tmp_path, model):
        with Retriever.create(tmp_path / "suite", model, backend="numpy") as self.opened:
            self.opened.add([f"Text number {number} about tea." for number in range(5)])
            yield

    @property
    def retriever_constructor(self):
        return ColBERTRetriever

    @property
    def retriever_constructor_params(self):
        return {"index": self.opened, "k": 2}

    @property
    def retriever_query_example(self):
        return "how long to steep tea"


@pytest.mark.skipif(VectorStoreIntegrationTests is None, reason="langchain-tests is not installed")
class TestVectorStoreSuite(VectorStoreIntegrationTests or object):
    """LangChain's suite for vector stores."""

    @pytest.fixture
    def vectorstore(self, tmp_path):
        # The suite wants "bar" to be nearer to "bar" than to "foo", which a tiny random model does not know.
        store = ColBERTVectorStore(tmp_path / "new", WordModel())
        yield store
        store.retriever.close()


def test_retriever_finds_what_ours_finds_with_ids_scores_and_metadata(retriever):
    found = ColBERTRetriever(index=retriever, k=2).invoke("how long to steep tea")

    hits = retriever.search("how long to steep tea", 2)
    assert [document.id for document in found] == [hit.doc_id for hit in hits]
    assert [document.page_content for document in found] == [hit.text for hit in hits]
    assert [document.metadata for document in found] == [
        {**hit.metadata, "relevance_score": hit.score} for hit in hits
    ]


@pytest.mark.parametrize("filter", ["topic = 'books'", {"topic": "books"}, {"year": [1851, 1852]}])
def test_filter_is_for_one_call_or_for_all(retriever, filter):
    of_call = ColBERTRetriever(index=retriever).invoke("tea", filter=filter)
    of_all = ColBERTRetriever(index=retriever, filter=filter).invoke("tea")

    assert [document.id for document in of_call] == [document.id for document in of_all] == ["novel"]


def test_mode_keyword_is_passed_on(retriever):
    found = ColBERTRetriever(index=retriever, mode="keyword").invoke("melville")

    assert [document.id for document in found] == ["novel"]


def test_asynchronous_call_takes_the_same_options(retriever):
    langchain = ColBERTRetriever(index=retriever)

    found = asyncio.run(langchain.ainvoke("tea", k=1, filter={"topic": "books"}))

    assert [document.id for document in found] == ["novel"]


def test_batches_have_a_result_for_each_query(retriever):
    langchain = ColBERTRetriever(index=retriever, k=1)

    together = langchain.batch(["steep tea", "bees dance"])

    assert together == [langchain.invoke("steep tea"), langchain.invoke("bees dance")]
    assert asyncio.run(langchain.abatch(["steep tea", "bees dance"])) == together


def test_callbacks_see_the_start_and_the_end(retriever):
    class Told(BaseCallbackHandler):
        def __init__(self):
            self.events = []

        def on_retriever_start(self, serialized, query, **others):
            self.events.append(query)

        def on_retriever_end(self, documents, **others):
            self.events.append(len(documents))

    told = Told()
    ColBERTRetriever(index=retriever, k=3).invoke("tea", config={"callbacks": [told]})

    assert told.events == ["tea", 3]


def test_collection_is_a_source_with_file_and_line(collection, tmp_path):
    langchain = ColBERTRetriever(collections=[collection], k=1)

    (found,) = langchain.invoke("how do bees dance")

    path = (tmp_path / "notes" / "bees.md").resolve()
    assert found.metadata["location"].startswith(f"{path}:")
    assert found.metadata["source"] == "notes/bees.md"
    assert found.metadata["collection"] == collection
    assert 0 <= found.metadata["confidence"] <= 1
    langchain._searched.close()


def test_batch_searches_a_collection_from_several_threads(collection):
    langchain = ColBERTRetriever(collections=collection, k=1)
    queries = ["how do bees dance", "how long to steep tea"] * 4

    assert langchain.batch(queries) == [langchain.invoke(query) for query in queries]
    langchain._searched.close()


def test_collection_is_filtered_by_its_metadata(collection):
    langchain = ColBERTRetriever(collections=collection)

    found = langchain.invoke("how do bees dance", filter={"path": "tea.md"})

    assert {document.metadata["source"] for document in found} == {"notes/tea.md"}
    langchain._searched.close()


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_retriever_is_written_as_json_and_read_again(retriever):
    langchain = ColBERTRetriever(index=retriever, k=2, filter={"topic": ["books", "drinks"]})

    again = load(
        json.loads(dumps(langchain)),
        allowed_objects=[ColBERTRetriever],
        valid_namespaces=["mlx_colbert"],
    )

    assert dumpd(again) == dumpd(langchain)
    assert again.invoke("tea") == langchain.invoke("tea")
    again._searched.close()


def test_retriever_and_compressor_are_pickled(retriever, model_folder):
    langchain, compressor = ColBERTRetriever(index=retriever, k=2), ColBERTCompressor(model_folder)

    again = pickle.loads(pickle.dumps(langchain))

    assert again.invoke("tea") == langchain.invoke("tea")
    assert pickle.loads(pickle.dumps(compressor)).model == str(model_folder)
    again._searched.close()


def test_compressor_orders_documents_and_keeps_the_best(model):
    documents = [
        Document("Coal is black.", id="coal", metadata={"year": 2019}),
        Document("Bees dance to show the way.", id="bees"),
        Document("", id="empty"),
    ]

    best = ColBERTCompressor(model, top_n=2).compress_documents(documents, "how do bees dance")

    expected = model.rerank("how do bees dance", [document.page_content for document in documents], 2)
    assert [document.metadata["relevance_score"] for document in best] == [hit.score for hit in expected]
    assert [document.id for document in best] == [documents[int(hit.doc_id)].id for hit in expected]
    assert documents[0].metadata == {"year": 2019}
    assert (
        asyncio.run(ColBERTCompressor(model, top_n=2).acompress_documents(documents, "how do bees dance"))
        == best
    )
    assert ColBERTCompressor(model).compress_documents([], "why") == []


def test_vector_store_keeps_ids_and_metadata_and_makes_missing_ids(tmp_path, model):
    store = ColBERTVectorStore.from_documents(
        [Document("Tea is steeped.", id="tea", metadata={"year": 2020}), Document("Bees dance.")],
        None,
        index=tmp_path / "new",
        model=model,
    )

    assert store.get_by_ids(["tea"]) == [Document("Tea is steeped.", id="tea", metadata={"year": 2020})]
    assert len(store.retriever) == 2
    document, score = store.similarity_search_with_score("steeped tea", 1, filter={"year": 2020})[0]
    assert (document.id, score) == (
        "tea",
        store.retriever.search("steeped tea", 1, filter="year = 2020")[0].score,
    )
    assert store.as_retriever(search_kwargs={"k": 1}).invoke("tea")[0].page_content
    with pytest.raises(errors.InputError, match="where is not known"):
        store.delete(where={"year": 2020})
    assert store.delete(filter={"year": 2020}) and len(store.retriever) == 1
    assert store.delete() and len(store.retriever) == 0
    store.retriever.close()


def test_asynchronous_methods_of_the_vector_store_take_the_same_options(retriever):
    store = ColBERTVectorStore(retriever)
    expected = store.similarity_search_with_score("tea", 2, filter="year < 2020")

    async def run():
        await store.aadd_documents([Document("Snow is white.", id="snow", metadata={"year": 2000})])
        found = await store.asimilarity_search_with_score("tea", 3, filter="year < 2020")
        got = await store.aget_by_ids(["snow", "unknown"])
        deleted = await store.adelete(filter="year = 2000")
        return found, got, deleted

    found, got, deleted = asyncio.run(run())

    assert [pair for pair in found if pair[0].id != "snow"] == expected and len(found) == 3
    assert [document.id for document in got] == ["snow"]
    assert deleted and len(store.retriever) == 4


@pytest.mark.parametrize("wanted", [{"$gte": 2020}, [], [{"a": 1}], [None]], ids=str)
def test_filter_of_another_store_is_told_with_its_field(retriever, wanted):
    with pytest.raises(errors.InputError, match=r"filter 'year': cannot compare .* as text"):
        ColBERTVectorStore(retriever).similarity_search("tea", filter={"year": wanted})


@pytest.mark.parametrize(
    ("search_type", "why"),
    [("mmr", "MMR compares one vector"), ("similarity_score_threshold", "no relevance from 0 to 1")],
)
def test_kinds_of_search_that_need_one_vector_say_so(retriever, search_type, why):
    langchain = ColBERTVectorStore(retriever).as_retriever(
        search_type=search_type, search_kwargs={"score_threshold": 0.5}
    )

    with pytest.raises(errors.InputError, match=why):
        langchain.invoke("tea")
    with pytest.raises(errors.InputError, match=why):
        asyncio.run(langchain.ainvoke("tea"))


def test_vector_store_follows_the_record_manager_of_langchain(tmp_path, model):
    store, records = ColBERTVectorStore(tmp_path / "new", model), InMemoryRecordManager("notes")
    records.create_schema()
    documents = [Document("Tea.", metadata={"file": "a"}), Document("Bees.", metadata={"file": "b"})]

    def run(documents):
        done = index(documents, records, store, cleanup="full", source_id_key="file", key_encoder="sha256")
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    assert [run(documents), run(documents), run(documents[:1])] == [(2, 0, 0), (0, 2, 0), (0, 1, 1)]
    assert [document.page_content for document in store.similarity_search("tea")] == ["Tea."]
    store.retriever.close()


def test_errors_of_users_are_ours(tmp_path, retriever, model, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "home"))
    Registry().create(CollectionSettings(model="none").with_folder(tmp_path), "never-synced")
    with pytest.raises(errors.InputError, match="index=FOLDER, or collections"):
        ColBERTRetriever()
    with pytest.raises(errors.IndexNotFoundError):
        ColBERTRetriever(index=tmp_path / "none").invoke("why")
    with pytest.raises(errors.CollectionNotFoundError, match="does not exist"):
        ColBERTRetriever(collections="none").invoke("why")
    with pytest.raises(errors.CollectionNotFoundError, match="never-synced"):
        ColBERTRetriever(collections=["never-synced"]).invoke("why")
    with pytest.raises(errors.InputError, match=r"^k "):
        ColBERTRetriever(index=retriever, k=0).invoke("why")
    with pytest.raises(errors.InputError, match="neither a filter nor a dict"):
        ColBERTRetriever(index=retriever).invoke("why", filter=5)
    with pytest.raises(errors.InputError, match="ColBERT has its own"):
        ColBERTVectorStore.from_texts(
            ["a"], DeterministicFakeEmbedding(size=3), index=tmp_path / "n", model=model
        )
    with pytest.raises(errors.InputError, match="cannot be stored"):
        ColBERTVectorStore(retriever).add_texts(["a"], [{"x": object()}])
    with pytest.raises(errors.CheckpointNotFoundError):
        ColBERTCompressor(tmp_path / "none").compress_documents([Document("a")], "why")


def test_time_for_changed_files_is_that_of_the_settings(collection, monkeypatch):
    limits = []

    def found_in_step(collections, find, limit_s):
        limits.append(limit_s)
        return find()

    monkeypatch.setattr("mlx_colbert.collection.search.found_in_step", found_in_step)
    monkeypatch.setenv("MLX_COLBERT_REFRESH_SECONDS", "7")
    langchain = ColBERTRetriever(collections=collection)
    assert langchain.invoke("tea")
    assert limits == [7.0]
    langchain._searched.close()
