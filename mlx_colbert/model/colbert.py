"""ColBERT, the public class: texts in, one unit vector per token out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, overload

import numpy as np

from mlx_colbert.checks import check_doc_ids, check_k, check_text, check_texts
from mlx_colbert.counts import counted
from mlx_colbert.errors import CheckpointError, InputError
from mlx_colbert.kernels import Backend
from mlx_colbert.model.config import Dtype, ModelConfig, OnOverflow, Task
from mlx_colbert.model.encoding import encoded, encoded_lists
from mlx_colbert.model.loading import LoadedParts, given_lengths, load_parts, with_lengths
from mlx_colbert.model.scoring import Embeddings, checked, explain, maxsim, maxsim_pairwise
from mlx_colbert.model.shared_encoder import shared_encoder
from mlx_colbert.model.tokenizer import TokenizedTexts
from mlx_colbert.results import Hits, Matches
from mlx_colbert.stages import stage
from mlx_colbert.types import Array, Hit, TokenEmbeddings

__all__ = ["ColBERT"]


class ColBERT:
    """A late-interaction model.

    Attributes:
        config: its settings.
        source: the folder or hub id that was given to `load`.
        lengths: query_length and document_length, if they were given to `load`.

    >>> model = ColBERT.load("tests/data/checkpoints/pylate-bert", backend="numpy")
    >>> query = model.encode_query("Who wrote it?")
    >>> documents = model.encode_document(["Harper Lee wrote it.", "No."])
    >>> query.shape[1] == model.dim, len(documents), model.similarity([query], documents).shape
    (True, 2, (1, 2))
    """

    def __init__(self, loaded: LoadedParts) -> None:
        self.config: ModelConfig = loaded.config
        self.source: str = loaded.source
        self.lengths: dict[str, int] = dict(loaded.lengths)
        self._params = loaded.params
        self._tokenizer = loaded.tokenizer
        self._ops = loaded.ops

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path,
        *,
        backend: Backend = "auto",
        dtype: Dtype | None = None,
        revision: str | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
    ) -> ColBERT:
        """A model from a converted folder, or from any checkpoint that `convert` reads.

        A checkpoint that is not converted yet is converted once, into the user's cache folder.

        Args:
            path_or_hub_id: a folder, or a hub id.
            backend: "auto", "mlx" or "numpy". A decoder needs MLX, which "auto" then takes without a GPU too.
            dtype: the type to compute in. None: float32 on a CPU; on a GPU bfloat16 if the weights have that
                type, else float16. numpy computes in float32 only.
            revision: branch, tag or commit on the hub.
            query_length: the most tokens of a query that are read, at most the encoder's `max_length`. If the
                checkpoint fills queries up, this is also the length that they are filled up to. None: the
                length that the checkpoint gives.
            document_length: the most tokens of a document that are read. An index is bound to both lengths:
                another length counts as another model.

        Raises:
            CheckpointNotFoundError: if there is no such folder and no such repository.
            CheckpointError: if the files cannot be used.
            ConfigError: if a setting is not understood, or a length is larger than the encoder allows.
            BackendError: if the backend is not installed.
        """
        loaded = load_parts(
            path_or_hub_id,
            backend=backend,
            dtype=dtype,
            revision=revision,
            query_length=query_length,
            document_length=document_length,
        )
        return cls(loaded)

    def __repr__(self) -> str:
        return f"<ColBERT {self.source!r}: {self.dim} components, {self.backend}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ColBERT cannot be pickled or copied. Load it in each process: ColBERT.load(path).")

    def with_lengths(self, *, query_length: int | None = None, document_length: int | None = None) -> ColBERT:
        """The same model with other lengths. The weights are shared, and nothing is loaded again.

        Args:
            query_length: as for `load`. None: as it is in this model.
            document_length: as for `load`. None: as it is in this model.

        Raises:
            InputError: if a length is not an integer.
            ConfigError: if a length is too small, or larger than the encoder allows.
        """
        lengths = self.lengths | given_lengths(query_length, document_length)
        config = with_lengths(self.config, lengths)
        tokenizer = self._tokenizer.with_lengths(config.colbert)
        return ColBERT(LoadedParts(config, self._params, tokenizer, self._ops, self.source, lengths))

    @property
    def dim(self) -> int:
        """D, the number of components of a token embedding."""
        return self.config.dim

    @property
    def revision(self) -> str | None:
        """The commit of the hub repository that the model comes from. None for a local folder."""
        return self.config.source.revision

    @property
    def backend(self) -> Literal["mlx", "numpy"]:
        """The name of the backend."""
        return self._ops.name

    @property
    def device(self) -> str:
        """The name of the device that computes, as text for people."""
        return self._ops.device()

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, the tokenizer and every setting that changes the embeddings."""
        return self.config.fingerprint

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, queries: str, *, show_progress: bool | None = None
    ) -> Array: ...
    @overload
    def encode_query(
        self, queries: Iterable[str], *, show_progress: bool | None = None
    ) -> TokenEmbeddings: ...
    def encode_query(
        self, queries: str | Iterable[str], *, show_progress: bool | None = None
    ) -> Array | TokenEmbeddings:
        """Token embeddings of queries.

        Queries are truncated to the checkpoint's `query_length`. If the checkpoint says so, they are filled
        up with [MASK]. An empty query has the vectors of [CLS], the marker, [SEP] and the fill.

        Args:
            queries: one text or several.
            show_progress: None shows a bar on a terminal, if the call takes longer than a second.

        Returns:
            (Q, D) float32 with unit rows for one text. For several texts, one such array each, in the order
            given.

        Raises:
            InputError: if a query is not a string.
        """
        return self._encode(queries, "query", "truncate", show_progress)

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self, documents: str, *, on_overflow: OnOverflow = "truncate", show_progress: bool | None = None
    ) -> Array: ...
    @overload
    def encode_document(
        self,
        documents: Iterable[str],
        *,
        on_overflow: OnOverflow = "truncate",
        show_progress: bool | None = None,
    ) -> TokenEmbeddings: ...
    def encode_document(
        self,
        documents: str | Iterable[str],
        *,
        on_overflow: OnOverflow = "truncate",
        show_progress: bool | None = None,
    ) -> Array | TokenEmbeddings:
        """Token embeddings of documents.

        Vectors of skiplist tokens (for most checkpoints, punctuation) are dropped. An empty document has the
        vectors of its special tokens.

        Args:
            documents: one text or several.
            on_overflow: what to do with a document of more than `document_length` tokens. "truncate": its end
                is not read. "error": an error is raised. "chunk": it is read in windows of that length, and
                each window repeats the last 32 tokens of the window before it. The document has the vectors
                of all its windows, and is scored as one document.
            show_progress: None shows a bar on a terminal, if the call takes longer than a second.

        Returns:
            (n_tokens, D) float32 with unit rows for one text. For several texts, one such array each, in the
            order given.

        Raises:
            InputError: if a document is not a string, or is too long and `on_overflow` is "error".
        """
        return self._encode(documents, "document", on_overflow, show_progress)

    def tokenize_documents(
        self,
        documents: Iterable[str],
        *,
        on_overflow: OnOverflow = "truncate",
        names: Sequence[str] | None = None,
    ) -> TokenizedTexts:
        """The tokens of documents, for `encode_tokenized`.

        One thread may tokenise the next documents while another one encodes.

        Args:
            documents: N texts.
            on_overflow: as for `encode_document`.
            names: the names of the texts in an error message. None: their positions.

        Raises:
            InputError: if a document is not a string, or is too long and `on_overflow` is "error".
        """
        texts = check_texts(documents, "document", may_be_blank=True, may_be_empty=True)
        return self._tokenizer.documents(texts, on_overflow=on_overflow, names=names)

    def tokenize_queries(self, queries: Sequence[str]) -> TokenizedTexts:
        """The tokens of queries, for `encode_tokenized`.

        Args:
            queries: N texts.

        Raises:
            InputError: if a query is not a string.
        """
        return self._tokenizer.queries(check_texts(queries, "query", may_be_blank=True, may_be_empty=True))

    def _tokenize(
        self, texts: Sequence[str], task: Task, on_overflow: OnOverflow = "truncate"
    ) -> TokenizedTexts:
        """The tokens of checked texts."""
        if task == "query":
            return self._tokenizer.queries(texts)
        return self._tokenizer.documents(texts, on_overflow=on_overflow)

    def token_ids(self, text: str, task: Task) -> list[int]:
        """The ids that the encoder sees for one text, markers and expansion included.

        Raises:
            InputError: if the text is not a string.
        """
        ids: list[int] = (
            self._tokenize([check_text(text, f"the {task}", may_be_blank=True)], task).rows[0].ids.tolist()
        )
        return ids

    def token_spans(
        self, text: str, task: Task, *, on_overflow: OnOverflow = "truncate"
    ) -> list[tuple[int, int]]:
        """The place in the text of each row of its token embeddings: (start, end).

        Both are equal for a row that stands for no piece of the text: markers and [MASK].

        Args:
            text: the text.
            task: "query" for the rows of `encode_query`, "document" for those of `encode_document`.
            on_overflow: as for `encode_document`.

        Raises:
            InputError: if the text is not a string, or is too long and `on_overflow` is "error".
        """
        tokens = self._tokenize([check_text(text, f"the {task}", may_be_blank=True)], task, on_overflow)
        spans = self._tokenizer.spans(text, tokens, task, on_overflow)
        scored = np.concatenate([row.scored for row in tokens.rows])
        return [span for span, kept in zip(spans, scored, strict=True) if kept]

    def fits(self, document: str) -> bool:
        """Whether a document has at most `document_length` tokens, and so is read to its end.

        Raises:
            InputError: if the document is not a string.
        """
        return self._tokenizer.fits(check_text(document, "the document", may_be_blank=True))

    def _encode(
        self, texts: str | Iterable[str], task: Task, on_overflow: OnOverflow, show_progress: bool | None
    ) -> Array | TokenEmbeddings:
        if isinstance(texts, str):
            text = check_text(texts, f"the {task}", may_be_blank=True)
            return self.encode_tokenized(self._tokenize([text], task, on_overflow))[0]
        # All texts are checked before the first is encoded: an error must not come after hours of work.
        texts = check_texts(texts, task, may_be_blank=True, may_be_empty=True)
        return encoded_lists(
            texts,
            lambda part: self._tokenize(part, task, on_overflow),
            self.encode_tokenized,
            self.dim,
            show_progress=show_progress,
        )

    @stage("encode")
    def encode_tokenized(
        self, texts: TokenizedTexts, advance: Callable[[int, int], Any] = lambda n_texts, n_tokens: None
    ) -> TokenEmbeddings:
        """Token embeddings of tokenised texts, in order.

        Args:
            texts: N texts, as `tokenize_documents` returns them.
            advance: called after each batch, with the number of texts that the batch began, and of tokens
                that were computed, with padding.

        Raises:
            CheckpointError: if a vector is not finite.
        """
        embeddings = self._encode_tokenized(texts, advance)
        if not np.isfinite(embeddings.vectors).all():
            raise CheckpointError(
                self.source, "the encoder computed values that are not finite. Try dtype='float32'."
            )
        return embeddings

    def _encode_tokenized(self, texts: TokenizedTexts, advance: Callable[[int, int], Any]) -> TokenEmbeddings:
        encoder = shared_encoder()
        if encoder is None or not len(texts.n_rows):
            return encoded(self.config, self._params, self._ops, texts, advance)
        return encoder.encode(
            # Another model may get the number of one that is no more in memory.
            (id(self._params), self.source),
            texts,
            lambda part: encoded(self.config, self._params, self._ops, part, lambda n_texts, n_tokens: None),
            advance,
        )

    def similarity(self, queries: Embeddings, documents: Embeddings) -> Array:
        """Scores of all queries with all documents: (n_queries, n_documents) float32.

        Args:
            queries: as `encode_query` returns them; one (Q, D) array counts as one query.
            documents: as `encode_document` returns them; one (n, D) array counts as one document.

        Raises:
            ShapeError: if D differs.
            InputError: if a value is NaN, or a single array has rows longer than 1, as no model's are.
        """
        left, right = checked(queries, "queries"), checked(documents, "documents")
        return maxsim(left, right, backend=self._ops.name) / self.score_divisors(left)[:, None]

    def similarity_pairwise(self, queries: Embeddings, documents: Embeddings) -> Array:
        """Scores of query i with document i: (N,) float32.

        Raises:
            ShapeError: if there are not as many queries as documents, or D differs.
            InputError: if a value is NaN, or a single array has rows longer than 1, as no model's are.
        """
        left, right = checked(queries, "queries"), checked(documents, "documents")
        return maxsim_pairwise(left, right, backend=self._ops.name) / self.score_divisors(left)

    def score_divisors(self, queries: TokenEmbeddings) -> Array:
        """The number that the MaxSim of each query is divided by: 1, or its tokens for "meanmaxsim".

        Args:
            queries: N queries.

        Returns:
            (N,) float32.
        """
        if self.config.colbert.similarity == "meanmaxsim":
            return queries.lengths.astype(np.float32)
        return np.ones(len(queries), np.float32)

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        k: int | None = None,
        *,
        doc_ids: Iterable[str] | None = None,
        on_overflow: OnOverflow = "truncate",
    ) -> Hits:
        """The documents in the order of their scores, best first.

        Args:
            query: the question.
            documents: texts; they are encoded now.
            k: the number of documents to return. None: all.
            doc_ids: their ids. None: their positions, "0", "1", …
            on_overflow: as for `encode_document`.

        Returns:
            At most k hits; equal scores keep the order given.

        Raises:
            InputError: if k < 1, if there are not as many ids as documents, or if a document is too long and
                `on_overflow` is "error".
        """
        check_text(query, "the query", may_be_blank=True)
        texts = check_texts(documents, "document", may_be_blank=True, may_be_empty=True)
        n_hits = None if k is None else check_k(k)
        ids = [str(i) for i in range(len(texts))] if doc_ids is None else check_doc_ids(doc_ids)
        if len(ids) != len(texts):
            raise InputError(
                f"{counted(len(texts), 'document')}, but {len(ids)} doc_ids. Give one per document."
            )
        embeddings = self.encode_document(texts, on_overflow=on_overflow)
        scores = self.similarity(self.encode_query([query]), embeddings)[0]
        order = np.argsort(-scores, kind="stable")[:n_hits]
        return Hits(Hit(rank, float(scores[i]), ids[i], texts[i]) for rank, i in enumerate(order, start=1))

    def explain(self, query: str, document: str, *, on_overflow: OnOverflow = "truncate") -> Matches:
        """The document token that each query token matched, in query order. The similarities sum to MaxSim.

        Args:
            query: the question.
            document: a text.
            on_overflow: as for `encode_document`.

        Raises:
            InputError: if a text is not a string, or the document is too long and `on_overflow` is "error".
        """
        check_text(query, "the query", may_be_blank=True)
        check_text(document, "the document", may_be_blank=True)
        tasks: tuple[tuple[str, Task], ...] = ((query, "query"), (document, "document"))
        vectors, names = [], []
        for text, task in tasks:
            tokens = self._tokenize([text], task, on_overflow)
            surface = self._tokenizer.surface(text, tokens, task, on_overflow)
            scored = np.concatenate([row.scored for row in tokens.rows])
            names.append([name for name, kept in zip(surface, scored, strict=True) if kept])
            vectors.append(self.encode_tokenized(tokens)[0])
        spans = self.token_spans(document, "document", on_overflow=on_overflow)
        return Matches(explain(vectors[0], vectors[1], names[0], names[1]), document, spans)
