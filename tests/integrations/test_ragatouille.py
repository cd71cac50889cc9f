"""RAGatouille's class: the same calls, the same shapes of results, and right where RAGatouille was not."""

import inspect

import pytest
from plaid_fixtures import copy_fixture

from mlx_colbert.errors import (
    DuplicateIdError,
    IndexStoreError,
    InputError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.integrations.ragatouille import RAGPretrainedModel, RAGTrainer, sentence_splitter

# The texts that mixedbread and RAGatouille publish as their example.
NOVELS = [
    "'To Kill a Mockingbird' is a novel by Harper Lee published in 1960. It was immediately successful, winning "
    "the Pulitzer Prize, and has become a classic of modern American literature.",
    "The novel 'Moby-Dick' was written by Herman Melville and first published in 1851. It is considered a "
    "masterpiece of American literature and deals with complex themes of obsession, revenge, and the conflict "
    "between good and evil.",
    "Harper Lee, an American novelist widely known for her novel 'To Kill a Mockingbird', was born in 1926 in "
    "Monroeville, Alabama. She received the Pulitzer Prize for Fiction in 1961.",
    "Jane Austen was an English novelist known primarily for her six major novels, which interpret, critique and "
    "comment upon the British landed gentry at the end of the 18th century.",
    "The 'Harry Potter' series, which consists of seven fantasy novels written by British author J.K. Rowling, is "
    "among the most popular and critically acclaimed books of the modern era.",
    "'The Great Gatsby', a novel written by American author F. Scott Fitzgerald, was published in 1925. The story "
    "is set in the Jazz Age and follows the life of millionaire Jay Gatsby and his pursuit of Daisy Buchanan.",
]
IDS = ["mockingbird", "moby", "lee", "austen", "potter", "gatsby"]


@pytest.fixture
def checkpoint(data):
    return data / "checkpoints" / "stanford-jina-bert"


@pytest.fixture
def rag(checkpoint, tmp_path):
    model = RAGPretrainedModel.from_pretrained(checkpoint, index_root=tmp_path)
    yield model
    model.close()


def found_ids(results):
    return {result["document_id"] for result in results}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("from_pretrained", "pretrained_model_name_or_path n_gpu=-1 verbose=1 index_root=None"),
        ("from_index", "index_path n_gpu=-1 verbose=1"),
        (
            "index",
            "collection document_ids=None document_metadatas=None index_name=None overwrite_index=True "
            "max_document_length=256 split_documents=True document_splitter_fn preprocessing_fn=None bsize=32 "
            "use_faiss=False",
        ),
        (
            "add_to_index",
            "new_collection new_document_ids=None new_document_metadatas=None index_name=None "
            "split_documents=True document_splitter_fn preprocessing_fn=None bsize=32 use_faiss=False",
        ),
        ("delete_from_index", "document_ids index_name=None"),
        (
            "search",
            "query index_name=None k=10 force_fast=False zero_index_ranks=False doc_ids=None filter=None",
        ),
        ("rerank", "query documents k=10 zero_index_ranks=False bsize='auto'"),
        ("encode", "documents bsize='auto' document_metadatas=None verbose=True max_document_length='auto'"),
        ("search_encoded_docs", "query k=10 bsize=32"),
        ("clear_encoded_docs", "force=False"),
        ("as_langchain_retriever", "kwargs"),
        ("as_langchain_document_compressor", "k=5 kwargs"),
    ],
)
def test_arguments_and_defaults_are_those_of_ragatouille(method, parameters):
    found = []
    for parameter in inspect.signature(getattr(RAGPretrainedModel, method)).parameters.values():
        shown = parameter.default not in (inspect.Parameter.empty, sentence_splitter)
        found.append(f"{parameter.name}={parameter.default!r}" if shown else parameter.name)
    assert " ".join(found).removeprefix("self ") == parameters


def test_published_example_has_the_shapes_of_ragatouille(rag, tmp_path):
    path = rag.index(NOVELS, index_name="mockingbird")
    results = rag.search("Who wrote 'To Kill a Mockingbird'?")

    assert path == str(tmp_path / "colbert" / "indexes" / "mockingbird")
    assert [result["rank"] for result in results] == [1, 2, 3, 4, 5, 6]
    assert all(set(result) == {"content", "score", "rank", "document_id", "passage_id"} for result in results)
    assert sorted(result["content"] for result in results) == sorted(NOVELS)
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True) and all(type(score) is float for score in scores)


def test_published_example_ranks_both_passages_on_harper_lee_first(answerai, tmp_path):
    rag = RAGPretrainedModel.from_pretrained(answerai, index_root=tmp_path)
    rag.index(NOVELS, index_name="mockingbird")
    first, second, *_ = rag.search("Who wrote 'To Kill a Mockingbird'?")
    reranked = rag.rerank("Who wrote 'To Kill a Mockingbird'?", NOVELS, k=2)
    rag.close()

    assert {first["content"], second["content"]} == {NOVELS[0], NOVELS[2]}
    assert {result["result_index"] for result in reranked} == {0, 2}


def test_several_queries_give_a_list_of_lists_and_one_query_a_flat_list(rag):
    rag.index(NOVELS, IDS)

    pair = rag.search(["Moby-Dick", "Gatsby"], k=2)
    assert [len(results) for results in pair] == [2, 2]
    assert pair[1] == rag.search("Gatsby", k=2) == rag.search(["Gatsby"], k=2)


def test_ranks_start_at_zero_if_asked(rag):
    rag.index(NOVELS, IDS)

    assert [result["rank"] for result in rag.search("novel", k=2, zero_index_ranks=True)] == [0, 1]
    assert [result["rank"] for result in rag.rerank("novel", NOVELS, k=2, zero_index_ranks=True)] == [0, 1]


def test_metadata_come_back_with_the_passages_of_their_document_alone(rag):
    rag.index(NOVELS[:2], IDS[:2], [{"year": 1960}, None])

    by_id = {result["document_id"]: result for result in rag.search("novel")}
    assert by_id["mockingbird"]["document_metadata"] == {"year": 1960}
    assert "document_metadata" not in by_id["moby"]
    assert found_ids(rag.search("novel", filter="year = 1960")) == {"mockingbird"}


def test_doc_ids_restrict_one_query_and_several(rag):
    rag.index(NOVELS, IDS)

    assert found_ids(rag.search("Harper Lee", doc_ids=["potter", "austen"])) == {"potter", "austen"}
    for results in rag.search(["Harper Lee", "Moby"], doc_ids=["potter", "unknown"]):
        assert found_ids(results) == {"potter"}


def test_long_document_is_cut_into_passages_that_the_model_reads_to_their_end(rag):
    sentences = [f"Sentence {n} speaks of the number {n * n}." for n in range(60)]
    rag.index([" ".join(sentences), "Short."], ["long", "short"], max_document_length=48)

    results = rag.search("number", k=100)
    parts = [result["content"] for result in results if result["document_id"] == "long"]
    assert len(parts) > 5 and found_ids(results) == {"long", "short"}
    assert all(rag._indexes.open(None).model.fits(part) for part in parts)
    assert sum(part.count("Sentence") for part in parts) == 60
    assert {result["passage_id"] for result in results} == {f"long#{n + 1}" for n in range(len(parts))} | {
        "short#1"
    }


def test_whole_documents_stay_whole(rag):
    text = "One sentence. " * 100
    rag.index([text], ["long"], split_documents=False, max_document_length=32)

    assert [result["content"] for result in rag.search("sentence")] == [text]


def test_passage_of_more_tokens_than_the_checkpoint_reads_is_read_to_its_end(rag):
    default = rag._model.config.colbert.document_length
    longer = min(2 * default, rag._model.config.encoder.max_length)
    text = "tea " * (longer - 10) + "zebra"
    rag.index([text], ["long"], max_document_length=longer, split_documents=False)

    assert rag._indexes.open(None).model.config.colbert.document_length == longer > default
    rag.index([text], ["long"], max_document_length=10**6)
    assert (
        rag._indexes.open(None).model.config.colbert.document_length == rag._model.config.encoder.max_length
    )


def test_query_longer_than_the_checkpoint_reads_is_read_to_its_end(rag):
    rag.index(NOVELS, IDS)
    beginning = "who wrote which of these many novels " * 5
    assert len(rag._model.encode_query(beginning + "Gatsby")) == len(rag._model.encode_query(beginning))

    scores = [
        {result["document_id"]: result["score"] for result in rag.search(beginning + end)}
        for end in ("Gatsby", "Moby")
    ]
    assert scores[0] != scores[1]


def test_functions_of_the_caller_cut_and_change_documents(rag):
    def halves(documents, document_ids, chunk_size):
        assert chunk_size == 100
        return [
            {"document_id": doc_id, "content": part}
            for doc_id, text in zip(document_ids, documents, strict=True)
            for part in text.split("|")
        ]

    def upper(passages, document_ids):
        return [{**passage, "content": passage["content"].upper()} for passage in passages]

    def marked(passages, document_ids):
        return [{**passage, "content": f"{passage['content']}!"} for passage in passages]

    rag.index(
        ["a|b", "c"],
        ["one", "two"],
        max_document_length=100,
        document_splitter_fn=halves,
        preprocessing_fn=[upper, marked],
    )
    assert {result["content"] for result in rag.search("a")} == {"A!", "B!", "C!"}


@pytest.mark.parametrize(
    "returned",
    [
        ["text"],
        [{"content": "a"}],
        [{"document_id": "x", "content": "a"}],
        [{"document_id": "one", "content": 1}],
    ],
)
def test_function_that_returns_something_else_is_an_error_that_says_what_to_return(rag, returned):
    with pytest.raises(InputError, match=r"document_id|must be a string"):
        rag.index(["a"], ["one"], document_splitter_fn=lambda *args, **kwargs: returned)


def test_document_with_an_id_of_the_index_replaces_it_and_makes_no_duplicate(rag):
    rag.index(NOVELS, IDS)
    rag.add_to_index([NOVELS[1], "Jane Austen wrote Emma."], ["moby", "austen"])
    rag.add_to_index([NOVELS[1], "Jane Austen wrote Emma."], ["moby", "austen"])
    rag.add_to_index(["Dune was written by Frank Herbert."], ["dune"])

    results = rag.search("novel", k=50)
    assert sorted(result["document_id"] for result in results) == sorted([*IDS, "dune"])
    by_id = {result["document_id"]: result["content"] for result in results}
    assert by_id["austen"] == "Jane Austen wrote Emma." and by_id["mockingbird"] == NOVELS[0]


def test_shorter_document_leaves_no_passage_of_the_longer_one(rag):
    rag.index(["One. " * 200], ["text"], max_document_length=32)
    assert len(rag.search("One", k=50)) > 1

    rag.add_to_index(["Two."], ["text"])
    assert [result["content"] for result in rag.search("One", k=50)] == ["Two."]


def test_search_after_a_deletion_finds_all_others_and_their_own_texts(rag, tmp_path):
    rag.index(NOVELS, IDS, [{"n": n} for n in range(6)])
    rag.delete_from_index(["mockingbird", "austen"])
    rag.delete_from_index("moby")
    expected = {doc_id: (NOVELS[n], {"n": n}) for n, doc_id in enumerate(IDS) if n in (2, 4, 5)}

    for again in (rag, RAGPretrainedModel.from_index(tmp_path / "colbert" / "indexes" / rag.index_name)):
        results = again.search("novel", k=50)
        assert {r["document_id"]: (r["content"], r["document_metadata"]) for r in results} == expected
        again.close()


def test_deletion_of_an_unknown_document_is_an_error_and_deletes_nothing(rag):
    rag.index(NOVELS, IDS)

    with pytest.raises(UnknownIdError, match="nobody"):
        rag.delete_from_index(["moby", "nobody"])
    assert len(rag.search("novel")) == 6


def test_document_ids_with_signs_stay_apart(rag):
    ids = ["a", "a#1", "a#1#1", "b/c", "ü"]
    rag.index([f"text {n}" for n in range(5)], ids)
    rag.add_to_index(["One. " * 200], ["a"])
    rag.delete_from_index("a")

    assert found_ids(rag.search("text", k=50)) == {*ids[1:]}


def test_index_is_opened_by_its_name_and_by_its_path(rag, checkpoint, tmp_path):
    path = rag.index(NOVELS[:3], IDS[:3], index_name="one", max_document_length=100)
    rag.index(NOVELS[3:], IDS[3:], index_name="two")
    assert found_ids(rag.search("novel")) == {*IDS[3:]}
    assert found_ids(rag.search("novel", index_name="one")) == {*IDS[:3]}
    # The name is kept.
    assert found_ids(rag.search("novel")) == {*IDS[:3]}
    expected = rag.search("novel")

    other = RAGPretrainedModel.from_index(path)
    fresh = RAGPretrainedModel.from_pretrained(checkpoint, index_root=tmp_path)
    assert other.search("novel") == fresh.search("novel", index_name="one") == expected
    fresh.add_to_index(["Dune."], ["dune"], index_name="two")
    assert found_ids(other.search("novel", index_name="two")) == {*IDS[3:], "dune"}
    other.close()
    fresh.close()


def test_second_index_of_a_name_replaces_the_first_one_only_if_it_may(rag):
    rag.index(NOVELS, IDS, index_name="novels")
    with pytest.raises(TargetExistsError, match="novels"):
        rag.index(["tea"], ["tea"], index_name="novels", overwrite_index=False)
    rag.index(["tea"], ["tea"], index_name="novels", overwrite_index="reuse")
    assert found_ids(rag.search("tea")) == {*IDS}

    rag.index(["tea"], ["tea"], index_name="novels")
    assert found_ids(rag.search("tea")) == {"tea"}


def test_failed_index_leaves_the_old_one(rag, tmp_path):
    path = rag.index(NOVELS, IDS, index_name="novels")

    def fails(texts, ids, chunk_size):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        rag.index(["tea"], ["tea"], index_name="novels", document_splitter_fn=fails)
    with pytest.raises(DuplicateIdError):
        rag.index(["tea", "milk"], ["tea", "tea"], index_name="novels")
    with pytest.raises(InputError, match="overwrite_index"):
        rag.index(["tea"], index_name="novels", overwrite_index="yes")
    assert found_ids(rag.search("novel")) == {*IDS}
    assert [entry.name for entry in (tmp_path / "colbert" / "indexes").iterdir()] == [path.rpartition("/")[2]]


def test_folder_that_is_no_index_is_never_replaced(rag, tmp_path):
    folder = tmp_path / "colbert" / "indexes" / "notes"
    folder.mkdir(parents=True)
    (folder / "diary.txt").write_text("mine")

    with pytest.raises(TargetExistsError):
        rag.index(["tea"], index_name="notes")
    with pytest.raises(IndexStoreError, match="neither"):
        rag.search("tea", index_name="notes")
    for name in ("..", "a/b", "/etc", "."):
        with pytest.raises(InputError, match="index_name"):
            rag.index(["tea"], index_name=name)
    assert (folder / "diary.txt").read_text() == "mine"


def test_without_an_index_the_error_says_what_to_call(rag):
    for call in (
        lambda: rag.search("tea"),
        lambda: rag.add_to_index(["tea"]),
        lambda: rag.delete_from_index("a"),
    ):
        with pytest.raises(InputError, match="index"):
            call()
    with pytest.raises(InputError, match="encode"):
        rag.search_encoded_docs("tea")
    with pytest.raises(IndexStoreError):
        rag.search("tea", index_name="none")


def test_numbers_of_ids_and_metadata_must_be_those_of_the_documents(rag):
    with pytest.raises(InputError, match="document_ids"):
        rag.index(["a", "b"], ["one"])
    with pytest.raises(InputError, match="document_metadatas"):
        rag.index(["a", "b"], document_metadatas=[{}])
    with pytest.raises(InputError):
        rag.index(["a"], [" "])


def test_rerank_gives_the_position_of_each_document_and_no_more_than_there_are(rag):
    results = rag.rerank("Moby-Dick", NOVELS, k=50)

    assert [result["rank"] for result in results] == [1, 2, 3, 4, 5, 6]
    assert all(set(result) == {"content", "score", "rank", "result_index"} for result in results)
    assert all(result["content"] == NOVELS[result["result_index"]] for result in results)
    assert rag.rerank(["Moby-Dick", "Gatsby"], NOVELS, k=50)[0] == results


def test_encoded_documents_are_searched_until_they_are_cleared(rag):
    rag.encode(NOVELS[:3])
    rag.encode(NOVELS[3:], document_metadatas=[{"n": n} for n in range(3, 6)])

    results = rag.search_encoded_docs("Gatsby", k=6)
    assert [(r["rank"], r["result_index"]) for r in results] == [
        (r["rank"], r["result_index"]) for r in rag.rerank("Gatsby", NOVELS)
    ]
    for result in results:
        assert result["content"] == NOVELS[result["result_index"]]
        n = result["result_index"]
        assert result.get("document_metadata") == ({"n": n} if n >= 3 else None)
    rag.clear_encoded_docs()
    with pytest.raises(InputError):
        rag.search_encoded_docs("Gatsby")


def test_default_splitter_keeps_a_blank_document_and_scripts_without_spaces():
    cut = sentence_splitter(["", "茶是热的。" * 40], ["blank", "tea"], chunk_size=32)

    assert cut[0] == {"document_id": "blank", "content": ""}
    assert "".join(part["content"] for part in cut[1:]) == "茶是热的。" * 40 and len(cut) > 6


def test_training_is_refused_with_a_way_to_go():
    with pytest.raises(InputError, match="does not train"):
        RAGTrainer(model_name="new", pretrained_model_name="colbert-ir/colbertv2.0")


class TestIndexOfRagatouille:
    @pytest.fixture
    def old(self, tmp_path):
        return copy_fixture("ragatouille", tmp_path / "colbert" / "indexes" / "old")

    @pytest.fixture
    def sixteen(self, data, tmp_path):
        """A model with the 16 components of that index."""
        from mlx_colbert.convert import convert

        return convert(data / "checkpoints" / "stanford-bert", tmp_path / "sixteen", dim=16)

    def test_is_searched_changed_and_left_as_it_is(self, old, sixteen, tmp_path):
        before = sorted((path.name, path.read_bytes()) for path in old.iterdir())
        rag = RAGPretrainedModel.from_pretrained(sixteen, index_root=tmp_path)

        tea = [r for r in rag.search("tea", index_name="old", k=99) if r["document_id"] == "tea"]
        assert len(tea) == 3 and tea[0]["document_metadata"] == {"source": "a book", "pages": [1, 2]}
        assert rag._indexes.open(None).model.config.colbert.document_length == 128
        assert len(rag.search("tea", k=99, doc_ids=["tea", "doc 3"])) == 4
        rag.delete_from_index("tea")
        rag.add_to_index(["Passage 3 is new."], ["doc 3"])
        rag.close()

        rag = RAGPretrainedModel.from_index(old.with_name("old.mlx-colbert"))
        results = rag.search("tea", k=99)
        assert len(results) == 23 and "tea" not in found_ids(results)
        assert [r["content"] for r in results if r["document_id"] == "doc 3"] == ["Passage 3 is new."]
        rag.close()
        assert sorted((path.name, path.read_bytes()) for path in old.iterdir()) == before

    def test_is_replaced_by_a_new_index_of_its_name(self, old, sixteen, tmp_path):
        rag = RAGPretrainedModel.from_pretrained(sixteen, index_root=tmp_path)
        rag.index(["tea"], ["new"], index_name="old")

        assert found_ids(rag.search("tea")) == {"new"}
        rag.close()

    def test_whose_model_cannot_be_found_says_how_to_import_it(self, old):
        with pytest.raises(Exception, match="colbertv2") as caught:
            RAGPretrainedModel.from_index(old)
        assert "--model" in caught.value.__notes__[0]
        assert not old.with_name("old.mlx-colbert").exists()

    def test_without_its_map_of_documents_is_refused(self, old):
        (old / "pid_docid_map.json").unlink()
        with pytest.raises(IndexStoreError, match="neither"):
            RAGPretrainedModel.from_index(old)


class TestLangChain:
    @pytest.fixture(autouse=True)
    def langchain(self):
        pytest.importorskip(
            "langchain_core", reason="langchain-core, the extra [langchain], is not installed"
        )

    def test_retriever_searches(self, rag):
        rag.index(NOVELS, IDS, [{"n": n} for n in range(6)])
        documents = rag.as_langchain_retriever(k=3).invoke("Gatsby")

        expected = rag.search("Gatsby", k=3)
        assert [document.page_content for document in documents] == [r["content"] for r in expected]
        assert [document.metadata for document in documents] == [r["document_metadata"] for r in expected]

    def test_compressor_reranks_and_leaves_the_documents_as_they_were(self, rag):
        from langchain_core.documents import Document

        documents = [Document(page_content=text, metadata={"n": n}) for n, text in enumerate(NOVELS)]
        best = rag.as_langchain_document_compressor(k=2).compress_documents(documents, "Gatsby")

        expected = rag.rerank("Gatsby", NOVELS, k=2)
        assert [(d.metadata["n"], d.metadata["relevance_score"]) for d in best] == [
            (r["result_index"], r["score"]) for r in expected
        ]
        assert all("relevance_score" not in document.metadata for document in documents)
        assert rag.as_langchain_document_compressor().compress_documents([], "Gatsby") == []


def test_without_langchain_the_error_names_the_extra(rag, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "langchain_core.callbacks", None)
    monkeypatch.delitem(sys.modules, "mlx_colbert.integrations.ragatouille_langchain", raising=False)
    with pytest.raises(ImportError, match=r"mlx-colbert\[langchain\]"):
        rag.as_langchain_retriever()
