"""A user's program with every public name, for type checkers. It is checked, and never run.

`assert_type` says what a caller gets. A name of docs/python.md or docs/reference/ that is missing here fails
tests/project/test_types.py.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt

import mlx_colbert
from mlx_colbert import (
    ColBERT,
    Conversation,
    Filter,
    Hit,
    Index,
    Retriever,
    SearchParams,
    Source,
    TokenEmbeddings,
    TokenMatch,
    errors,
    explain,
    import_index,
    maxsim,
    merge_index,
    open_language_model,
)
from mlx_colbert.ask.conversation import Answer, Citation, Reply
from mlx_colbert.ask.language_models.language_model import Finish, Message
from mlx_colbert.collection.choosing import chosen
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import is_relevant
from mlx_colbert.collection.fresh_search import refreshed
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.collection.search import Found, search
from mlx_colbert.collection.watch import Watcher, WatchEvent
from mlx_colbert.evaluation.experiment import Evaluation, evaluate
from mlx_colbert.evaluation.judgements import read_qrels, read_run
from mlx_colbert.evaluation.reading import read_dataset
from mlx_colbert.evaluation.significance import Comparison, compared
from mlx_colbert.first_stage.lemur import Lemur
from mlx_colbert.first_stage.muvera import Muvera
from mlx_colbert.first_stage.two_stage import TwoStage, sample_passages
from mlx_colbert.results import Hits, Matches


def retrieve(path: Path) -> None:
    with Retriever.create(path, "colbert-ir/colbertv2.0", nbits=4, exist_ok=True) as retriever:
        assert_type(retriever, Retriever)
        retriever.add(["a text"], ["an id"], [{"year": 2024}])
        retriever.upsert(["a text"], ["an id"])
        retriever.add_files([path, "notes"], upsert=True)
        retriever.replace_source(Source("https://example.org/tea"), ["a text"])
        one = retriever.search(
            "a query", k=3, filter=Filter("year > ?", 2000), params=SearchParams(exact=True)
        )
        assert_type(one, Hits)
        assert_type(retriever.search(["a query"], mode="hybrid", weights=(1.0, 0.5)), list[Hits])
        assert_type(retriever.rerank("a query", ["an id"], 1), Hits)
        assert_type(retriever.explain("a query", "an id"), Matches)
        assert_type(retriever.model, ColBERT)
        assert_type(retriever.index, Index)
        assert_type(len(retriever), int)
        assert_type([doc_id for doc_id in retriever], list[str])
        retriever.delete(["an id"])
        retriever.delete(filter="year < 2000")
        hit = one[0]
        assert_type(hit.rank, int)
        assert_type(hit.score, float)
        assert_type(hit.doc_id, str)
        assert_type(hit.text, str | None)
        assert_type(hit.source, str | None)
        print(hit.metadata, hit.position, hit.to_dict(), retriever.stats, retriever.unread)
    assert_type(Retriever.open(path), Retriever)
    assert_type(Retriever.from_files(path, "a model", ["notes"]), Retriever)


def encode(path: Path) -> None:
    model = ColBERT.load(path, backend="numpy", dtype="float32", query_length=32)
    query = model.encode_query("a query")
    documents = model.encode_document(["a text", "another"])
    assert_type(documents, TokenEmbeddings)
    print(documents.vectors.shape, documents.lengths.sum())
    assert_type(TokenEmbeddings.pack([query]), TokenEmbeddings)
    assert_type(model.with_lengths(query_length=32, document_length=256), ColBERT)
    assert_type(model.fingerprint, str)
    assert_type(model.revision, str | None)
    assert_type(model.token_ids("a query", "query"), list[int])
    assert_type(model.encode_query(["a query"]), TokenEmbeddings)
    assert_type(model.fits("a text"), bool)
    assert_type(model.dim, int)
    assert_type(model.explain("a query", "a text"), Matches)
    assert_type(model.rerank("a query", ["a text"], 1), Hits)
    similarity: npt.NDArray[np.float32] = model.similarity(query, documents)
    scores: npt.NDArray[np.float32] = maxsim(query, [np.ones((2, 3), np.float32)])
    print(similarity, scores, model.similarity_pairwise(query, documents))
    for match in explain(query, documents[0], ["a", "query"], ["a", "text"]):
        assert_type(match, TokenMatch)
        assert_type(match.similarity, float)
        print(match.query_token, match.document_token, match.document_position)


def store(path: Path) -> None:
    with Index.create(path, 96, nbits=2, exact_tokens=None) as index:
        index.add(["a"], [np.ones((3, 96), np.float32)], ["a text"], [{"year": 2024}])
        index.update_metadata(["a"], [None])
        with index.bulk():
            index.upsert(["b"], [np.ones((3, 96), np.float32)])
        assert_type(index.search(np.ones((4, 96), np.float32), k=2), list[Hit])
        assert_type(index.ids(filter="year = 2024"), list[str])
        assert_type(index.sources(), list[Source])
        assert_type(index.existing(["a"]), set[str])
        assert_type(index.verify(), list[str])
        assert_type(index.info().passages, int)
        assert_type(index.path, Path)
        assert_type(index.dim, int)
        found = index.search_keywords("a", 3, filter=Filter("year = ?", 2024), doc_ids=["a"])
        assert_type(found, list[Hit])
        assert_type(index.get("a").text, str | None)
        assert_type([passage.doc_id for passage in index.passages(limit=2)], list[str])
        assert_type(index.embeddings(["a"]), TokenEmbeddings)
        assert_type(index.compare(["a"], ["a text"]), dict[str, bool])
        assert_type(index.filter_problems("year = 'x'"), list[str])
        assert_type(index.keyword_problems("!"), list[str])
        tea = Source("tea.md", modified_ns=0, n_bytes=10)
        assert_type(index.replace_sources({tea: {"c": {"lines": [1, 2]}}}, ["c"], [np.ones((1, 96))]), int)
        index.rename_sources({tea.uri: Source("chai.md")})
        assert_type(index.passages_of("chai.md"), list[str])
        index.delete(["a"])
        index.compact()
    import_index(path, path, "a model", collection="texts.tsv")
    assert_type(merge_index(path / "whole", [path / "0", path / "1"]).passages, int)


def answer(path: Path) -> None:
    class Echo:
        """A language model of the user's own."""

        name = "echo"
        window = 4096

        def count(self, messages: Sequence[Message]) -> int:
            return sum(len(message["content"]) for message in messages)

        def generate(
            self, messages: Sequence[Message], *, max_tokens: int, temperature: float
        ) -> Generator[str, None, Finish]:
            yield messages[-1]["content"][:max_tokens]
            return "stop"

    with Retriever.open(path) as retriever:
        for llm in (Echo(), open_language_model("auto")):
            reply = Conversation(retriever.search, llm, k=3).ask("a question")
            assert_type(reply, Reply)
            for piece in reply:
                assert_type(piece, str)
            assert_type(reply.answer, Answer)
            assert_type(reply.answer.found, bool)
            for citation in reply.answer.citations:
                assert_type(citation, Citation)
                print(citation.number, citation.invented)
            reply.close()


def collections(path: Path) -> None:
    (place,) = chosen(Registry(), [path], name="notes")
    with Collection.open(place.name) as notes:
        assert_type(notes.sync().new, list[str])
        assert_type(refreshed([notes]), list[str])
        found = search([notes], "a query", k=5, restriction=Restriction(kinds=["md"]))
        assert_type(found, Found)
        for hit in found.hits:
            assert_type(is_relevant(hit), bool)
            print(hit.rank, hit.confidence, hit.path, hit.line)
    for event in Watcher(Registry()).run():
        assert_type(event, WatchEvent)
        print(event.kind, event.collection)


def first_stage(path: Path) -> None:
    with Index.open(path) as index:
        sample = sample_passages(index)
        for encoder in (Muvera.fit(sample), Lemur.fit(sample, sample)):
            stages = TwoStage(index, encoder)
            assert_type(stages.update(), int)
            assert_type(stages.search(sample, 3, n_candidates=100), list[list[Hit]])


def measure(path: Path) -> None:
    dataset = read_dataset(path, split="test")
    evaluation = evaluate(dataset, ["bm25", "exact"], model=ColBERT.load(path), runs={"mine": read_run(path)})
    assert_type(evaluation, Evaluation)
    one, other = (system.values["nDCG@10"] for system in evaluation.systems[:2])
    assert_type(compared(one, other), Comparison)
    assert_type(read_qrels(path), dict[str, dict[str, int]])


def guarded(path: Path) -> str:
    try:
        Retriever.open(path)
    except errors.IndexNotFoundError as error:
        assert_type(error.path, Path)
    except errors.UnknownIdError as error:
        assert_type(error.doc_ids, list[str])
    except errors.ColBERTError as error:
        print(error)
    return mlx_colbert.__version__
