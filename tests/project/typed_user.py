"""A user's program with every public name, for type checkers. It is checked, and never run.

`assert_type` says what a caller gets. A name that is missing here fails tests/project/test_types.py.
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
from mlx_colbert.ask.conversation import Citation
from mlx_colbert.ask.language_models.language_model import Finish, Message
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.collection.search import search
from mlx_colbert.collection.watch import Watcher
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
    assert_type(Retriever.open(path), Retriever)
    assert_type(Retriever.from_files(path, "a model", ["notes"]), Retriever)


def encode(path: Path) -> None:
    model = ColBERT.load(path, backend="numpy", dtype="float32", query_length=32)
    query = model.encode_query("a query")
    documents = model.encode_document(["a text", "another"])
    assert_type(documents, TokenEmbeddings)
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
            for piece in reply:
                assert_type(piece, str)
            assert_type(reply.answer.citations, list[Citation])


def collections() -> None:
    with Collection.open("notes") as notes:
        assert_type(notes.sync().new, list[str])
        found = search([notes], "a query", k=5, restriction=Restriction(kinds=["md"]))
        for hit in found.hits:
            print(hit.rank, hit.confidence, hit.path, hit.line)
    for event in Watcher(Registry()).run():
        print(event.kind, event.collection)


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
