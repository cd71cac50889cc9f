"""A ColBERT for `mteb.evaluate`: retrieval and reranking, with an exact index."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_colbert.checks import check_k
from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.index import Index
from mlx_colbert.index.storage.codec import Bits
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.progress import shown

try:
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise MissingExtraError("mteb", "mteb") from error

__all__ = ["MtebColBERT"]

# Texts that are encoded, and queries that are searched, at a time.
_TEXTS_AT_ONCE = 1024
_QUERIES_AT_ONCE = 32


class MtebColBERT:
    """A model as mteb searches with it (`mteb.models.SearchProtocol`).

    `mteb.evaluate(MtebColBERT(model), tasks)` gives the published measures of mteb. A reranking task gets the
    exact scores of its candidates.

    Args:
        model: a loaded model.
        name: its name in the results of mteb, "organisation/model". None: it is made from the source.
        nbits: bits per component of the index. None: the index is exact.

    Raises:
        InputError: if the name has no organisation.
    """

    def __init__(self, model: ColBERT, *, name: str | None = None, nbits: Bits | None = None) -> None:
        if name is not None and name.count("/") != 1:
            raise InputError(f"name is {name!r}. Give an organisation and a model, such as 'me/my-colbert'.")
        self.model = model
        self._name = name or _name_of(model.source)
        self._nbits = nbits
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._index: Index | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb records of the model. The revision is the fingerprint if there is no commit."""
        return ModelMeta.create_empty(
            {
                "name": self._name,
                "revision": self.model.revision or self.model.fingerprint,
                "max_tokens": self.model.config.colbert.document_length,
                "embed_dim": self.model.dim,
                "similarity_fn_name": ScoringFunction.MAX_SIM,
                "framework": ["ColBERT"],
                "model_type": ["late-interaction"],
                "experiment_kwargs": {} if self._nbits is None else {"nbits": self._nbits},
            }
        )

    def index(self, corpus: Any, **_: Any) -> None:
        """Encode the documents of a task into a new index, in place of those of the task before.

        Args:
            corpus: rows with "id", "text" and perhaps "title".

        Raises:
            InputError: if a row has no text, or (DuplicateIdError) an id is given twice.
        """
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="mlx-colbert-mteb-")
        exact_tokens = None if self._nbits is None else 0
        self._index = Index.create(
            Path(self._folder.name, "index"),
            self.model.dim,
            nbits=self._nbits or 8,
            exact_tokens=exact_tokens,
            backend=self.model.backend,
        )
        ids, texts = list(map(str, corpus["id"])), _documents(corpus)
        with shown() as progress, self._index.bulk():
            for start in range(0, len(ids), _TEXTS_AT_ONCE):
                part = slice(start, start + _TEXTS_AT_ONCE)
                self._index.add(ids[part], self.model.encode_document(texts[part], show_progress=False))
                progress("encoding", min(part.stop, len(ids)), len(ids))

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """The scores of the best documents for each query: query id → document id → score.

        Args:
            queries: rows with "id", "text" and perhaps "instruction".
            top_k: the most documents of a query.
            top_ranked: the candidates of each query. Only they are scored, and a query without candidates
                gets nothing. None: all documents.

        Raises:
            InputError: if nothing was indexed, or a query is not text.
        """
        if self._index is None:
            raise InputError("nothing is indexed. Call index(corpus) first.")
        k = check_k(top_k)
        ids, texts = list(map(str, queries["id"])), _queries(queries)
        found: dict[str, dict[str, float]] = {}
        for start in range(0, len(ids), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            embeddings = self.model.encode_query(texts[part], show_progress=False)
            if top_ranked is None:
                rankings = self._index.search(embeddings, k)
            else:
                rankings = [
                    self._index.search(rows, k, doc_ids=list(dict.fromkeys(top_ranked[query])))
                    if top_ranked.get(query)
                    else []
                    for query, rows in zip(ids[part], embeddings, strict=True)
                ]
            divisors = self.model.score_divisors(embeddings)
            for query, hits, divisor in zip(ids[part], rankings, divisors, strict=True):
                found[query] = {hit.doc_id: hit.score / float(divisor) for hit in hits}
        return found

    def close(self) -> None:
        """Remove the index of the last task. The end of the process does it too."""
        if self._index is not None:
            self._index.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._index = self._folder = None


def _name_of(source: str) -> str:
    """The name of a model for mteb, which wants an organisation."""
    parts = Path(source).parts
    return (
        source if len(parts) == 2 and not Path(source).exists() else f"local/{Path(source).name or 'model'}"
    )


def _documents(corpus: Any) -> list[str]:
    """Title, a space and text of each document, as mteb joins them."""
    texts = _texts(corpus, "document")
    if "title" not in corpus.column_names:
        return texts
    return [f"{title or ''} {text}".strip() for title, text in zip(corpus["title"], texts, strict=True)]


def _queries(queries: Any) -> list[str]:
    """The text and the instruction of each query, as mteb joins them."""
    texts = _texts(queries, "query")
    if "instruction" not in queries.column_names:
        return texts
    pairs = zip(texts, queries["instruction"], strict=True)
    return [text if instruction is None else f"{text} {instruction}" for text, instruction in pairs]


def _texts(rows: Any, what: str) -> list[str]:
    if "text" not in rows.column_names:
        raise InputError(
            f"the rows have no column 'text', so a {what} has no text. This model reads texts only."
        )
    texts: list[str] = []
    for row_id, text in zip(rows["id"], rows["text"], strict=True):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InputError(f"{what} {row_id!r} is a {kind}, not text. This model reads texts only.")
        texts.append(text)
    return texts
