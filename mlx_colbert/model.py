"""ColBERT: text in, one unit vector per token out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np

from mlx_colbert import checkpoint
from mlx_colbert.backends import Backend, Ops, Params, get_decoder_ops, get_ops
from mlx_colbert.config import ColBERTConfig, Dtype, EncoderConfig, ModelConfig, ProjectionLayer, Task
from mlx_colbert.decoder import DecoderConfig
from mlx_colbert.encoder import encode, project
from mlx_colbert.errors import CheckpointError, ConfigError, InputError
from mlx_colbert.location import locate
from mlx_colbert.scoring import Embeddings, explain, maxsim, maxsim_pairwise, ragged, several
from mlx_colbert.tokenizer import TokenizedText, Tokenizer
from mlx_colbert.types import Array, Hit, TokenEmbeddings, TokenMatch

__all__ = ["ColBERT"]


def _batches(lengths: Array, ops: Ops, max_length: int) -> Iterator[tuple[Array, int]]:
    """Positions of the texts of each batch, and its width: longest first, so that memory peaks at once."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        width = min(-(-longest // ops.length_multiple) * ops.length_multiple, max_length)
        size = max(1, ops.batch_tokens // width)
        yield order[start : start + size], width
        start += size


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if not isinstance(texts, list | tuple):
        raise InputError(f"texts must be a string or a list of strings, got a {type(texts).__name__}.")
    return texts


def _chosen(settings: EncoderConfig | DecoderConfig | ColBERTConfig | ProjectionLayer) -> dict[str, Any]:
    """The settings that are not at their defaults: one that a later version adds leaves this as it is."""
    values = ((field.name, getattr(settings, field.name), field.default) for field in fields(settings))
    return {name: value for name, value, default in values if value != default}


class ColBERT:
    """A late-interaction model.

    Attributes:
        config: its settings.
        source: what it was loaded from, as given to `load`.

    >>> model = ColBERT.load("tests/data/checkpoints/pylate-bert", backend="numpy")
    >>> query = model.encode_query("Who wrote it?")
    >>> documents = model.encode_document(["Harper Lee wrote it.", "No."])
    >>> query.shape[1] == model.dim, len(documents), model.similarity([query], documents).shape
    (True, 2, (1, 2))
    """

    def __init__(
        self, config: ModelConfig, params: Params, tokenizer: Tokenizer, ops: Ops, source: str
    ) -> None:
        self.config = config
        self.source = source
        self._params = params
        self._tokenizer = tokenizer
        self._ops = ops

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path,
        *,
        backend: Backend = "auto",
        dtype: Dtype | None = None,
        revision: str | None = None,
    ) -> ColBERT:
        """A model from a converted folder, or from any checkpoint that `convert` reads.

        A checkpoint that is not converted yet is converted once, into the user's cache folder.

        Args:
            path_or_hub_id: a folder, or a hub id.
            backend: "auto", "mlx" or "numpy". A decoder needs MLX, which "auto" then takes without a GPU too.
            dtype: type to compute in. None: as stored on a GPU, float32 on a CPU; numpy knows float32 only.
            revision: branch, tag or commit on the hub.

        Raises:
            CheckpointNotFoundError: if there is no such folder and no such repository.
            CheckpointError: if the files cannot be used.
            ConfigError: if a setting is not understood.
            BackendError: if the backend is not installed.
        """
        ops = get_ops(backend)
        location = locate(path_or_hub_id, revision=revision)
        folder = location.folder
        if not checkpoint.is_converted(folder):
            # transformers takes seconds to import and is needed for conversion only.
            from mlx_colbert.convert.conversion import convert_to_cache

            folder = convert_to_cache(location)
        config = checkpoint.read_config(folder)
        if isinstance(config.encoder, DecoderConfig):
            ops = get_decoder_ops(backend)
        if ops.name == "numpy" and dtype not in (None, "float32"):
            raise ConfigError("dtype", [f"{dtype} needs the MLX backend: numpy computes in float32"])
        if dtype not in (None, *get_args(Dtype)):
            raise ConfigError("dtype", [f"{dtype!r} is not one of {', '.join(get_args(Dtype))}"])
        tensors = checkpoint.read_tensors(folder, config)
        if ops.name == "numpy":
            tensors = checkpoint.dequantized(tensors, config)
        params = ops.load_params(tensors, dtype or ops.default_dtype(config.dtype))
        if isinstance(config.encoder, DecoderConfig):
            # mlx-lm is optional, and takes a second to import.
            from mlx_colbert.backends import mlx_decoder

            params = mlx_decoder.with_decoder(params, config.encoder, config.quantization)
        if (folder / "tokenizer.json").is_file():
            checkpoint.check_size(folder / "tokenizer.json")
        tokenizer = Tokenizer(folder / "tokenizer.json", config.colbert)
        # An index recognises its model by the fingerprint, which holds this hash.
        if hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() != config.tokenizer_sha256:
            raise CheckpointError(folder, "tokenizer.json was changed after the conversion. Convert again.")
        return cls(config, params, tokenizer, ops, str(path_or_hub_id))

    @property
    def dim(self) -> int:
        """D, the number of components of a token embedding."""
        return self.config.dim

    @property
    def revision(self) -> str | None:
        """The commit of the hub repository that it comes from, None for a local folder."""
        return self.config.source.revision

    @property
    def backend(self) -> str:
        """The name of the backend, "mlx" or "numpy"."""
        return self._ops.name

    @property
    def device(self) -> str:
        """The device that computes, for people."""
        return self._ops.device()

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, the tokenizer and every setting that changes the embeddings."""
        parts = [
            _chosen(self.config.encoder),
            _chosen(self.config.colbert),
            [_chosen(layer) for layer in self.config.projection],
        ]
        files = [self.config.weights_sha256, self.config.tokenizer_sha256]
        text = json.dumps([*parts, *files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @overload
    def encode_query(self, queries: str, *, show_progress: bool | None = None) -> Array: ...
    @overload
    def encode_query(self, queries: list[str], *, show_progress: bool | None = None) -> TokenEmbeddings: ...
    def encode_query(
        self, queries: str | list[str], *, show_progress: bool | None = None
    ) -> Array | TokenEmbeddings:
        """Token embeddings of queries.

        Queries are truncated to the checkpoint's `query_length` and filled up with [MASK] where it says so.
        An empty query has the vectors of [CLS], the marker and [SEP] (and of the fill).

        Args:
            queries: one text or several.
            show_progress: None shows a bar on a terminal once it takes longer than a second.

        Returns:
            (Q, D) float32 with unit rows for one text; ragged, in the order given, for several.

        Raises:
            InputError: if a query is not a string.
        """
        return self._encode(queries, "query", show_progress)

    @overload
    def encode_document(self, documents: str, *, show_progress: bool | None = None) -> Array: ...
    @overload
    def encode_document(
        self, documents: list[str], *, show_progress: bool | None = None
    ) -> TokenEmbeddings: ...
    def encode_document(
        self, documents: str | list[str], *, show_progress: bool | None = None
    ) -> Array | TokenEmbeddings:
        """Token embeddings of documents.

        Documents are truncated to the checkpoint's `document_length`, [SEP] kept; vectors of skiplist tokens
        (punctuation, for most checkpoints) are dropped. An empty document keeps its special tokens' vectors.

        Args:
            documents: one text or several.
            show_progress: None shows a bar on a terminal once it takes longer than a second.

        Returns:
            (n_tokens, D) float32 with unit rows for one text; ragged, in the order given, for several.

        Raises:
            InputError: if a document is not a string.
        """
        return self._encode(documents, "document", show_progress)

    def _tokenize(self, texts: Sequence[str], task: Task) -> list[TokenizedText]:
        return self._tokenizer.queries(texts) if task == "query" else self._tokenizer.documents(texts)

    def token_ids(self, text: str, task: Task) -> list[int]:
        """The ids that the encoder sees for one text, markers and expansion included.

        Raises:
            InputError: if it is not a string.
        """
        ids: list[int] = self._tokenize([text], task)[0].ids.tolist()
        return ids

    def fits(self, document: str) -> bool:
        """Whether a document is encoded to its end: what lies beyond `document_length` tokens is not.

        Raises:
            InputError: if it is not a string.
        """
        return self._tokenizer.fits(document)

    def _encode(
        self, texts: str | list[str], task: Task, show_progress: bool | None
    ) -> Array | TokenEmbeddings:
        if isinstance(texts, str):
            return self._embed(self._tokenize([texts], task), lambda _: None)[0]
        tokenized = self._tokenize(_checked(texts), task)
        # Only a list long enough to take a second is worth the import of a progress bar.
        if show_progress is False or (show_progress is None and len(texts) < 64):
            return self._embed(tokenized, lambda _: None)
        from tqdm import tqdm

        noun = "queries" if task == "query" else "documents"
        quiet = None if show_progress is None else False
        delay = 1.0 if show_progress is None else 0.0
        with tqdm(total=len(texts), desc=f"Encoding {noun}", unit="", delay=delay, disable=quiet) as bar:
            return self._embed(tokenized, bar.update)

    def _embed(self, texts: list[TokenizedText], advance: Callable[[int], Any]) -> TokenEmbeddings:
        """Token embeddings of tokenised texts, in order; `advance` is told the size of each batch done."""
        lengths = np.array([len(text.ids) for text in texts], dtype=np.int64)
        kept = np.array([int(text.scored.sum()) for text in texts], dtype=np.int64)
        embeddings = TokenEmbeddings(np.empty((int(kept.sum()), self.dim), np.float32), kept)

        def encoded(batch: tuple[Array, int]) -> Array:
            members, width = batch
            ids = np.zeros((len(members), width), np.int32)
            attended = np.zeros((len(members), width), bool)
            for row, member in enumerate(members):
                ids[row, : lengths[member]] = texts[member].ids
                attended[row, : texts[member].n_attended] = True
            hidden = encode(self._ops, self._params, self.config.encoder, ids, attended)
            return self._ops.to_numpy(project(self._ops, self._params, self.config.projection, hidden))

        plan = list(_batches(lengths, self._ops, self.config.encoder.max_length))
        for (members, _), batch in zip(plan, self._ops.map_batches(encoded, plan), strict=True):
            for row, member in enumerate(members):
                embeddings[int(member)][:] = batch[row, : lengths[member]][texts[member].scored]
            advance(len(members))
        if not np.isfinite(embeddings.vectors).all():
            raise CheckpointError(
                self.source, "the encoder produced values that are not finite; try dtype='float32'."
            )
        return embeddings

    def similarity(self, queries: Embeddings, documents: Embeddings) -> Array:
        """Scores of all queries with all documents: (n_queries, n_documents) float32.

        Args:
            queries: as `encode_query` returns them; one (Q, D) array counts as one query.
            documents: as `encode_document` returns them; one (n, D) array counts as one document.

        Raises:
            ShapeError: if D differs.
        """
        left, right = ragged(several(queries)), ragged(several(documents))
        return maxsim(left, right, backend=self._ops.name) / self.score_divisors(left)[:, None]

    def similarity_pairwise(self, queries: Embeddings, documents: Embeddings) -> Array:
        """Scores of query i with document i: (N,) float32.

        Raises:
            ShapeError: if there are not as many queries as documents, or D differs.
        """
        left, right = ragged(several(queries)), ragged(several(documents))
        return maxsim_pairwise(left, right, backend=self._ops.name) / self.score_divisors(left)

    def score_divisors(self, queries: TokenEmbeddings) -> Array:
        """What the MaxSim of each query is divided by: 1, or for "meanmaxsim" its number of tokens.

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
        documents: Sequence[str],
        k: int | None = None,
        *,
        doc_ids: Sequence[str] | None = None,
    ) -> list[Hit]:
        """The documents in the order of their scores, best first.

        Args:
            query: the question.
            documents: texts; they are encoded now.
            k: how many to return. None: all.
            doc_ids: their ids. None: their positions, "0", "1", …

        Returns:
            At most k hits; equal scores keep the order given.

        Raises:
            InputError: if k < 1, or there are not as many ids as documents.
        """
        if not isinstance(documents, Sequence) or isinstance(documents, str) or not isinstance(query, str):
            raise InputError("rerank takes one query and a list of documents.")
        if k is not None and (type(k) is not int or k < 1):
            raise InputError(f"k must be an integer of at least 1, got {k!r}.")
        ids = [str(i) for i in range(len(documents))] if doc_ids is None else list(doc_ids)
        if len(ids) != len(documents):
            raise InputError(f"{len(ids)} doc_ids do not fit {len(documents)} documents.")
        scores = self.similarity(self.encode_query([query]), self.encode_document(list(documents)))[0]
        order = np.argsort(-scores, kind="stable")[:k]
        return [Hit(rank, float(scores[i]), ids[i], documents[i]) for rank, i in enumerate(order, start=1)]

    def explain(self, query: str, document: str) -> list[TokenMatch]:
        """Which document token each query token matched, in query order; similarities sum to MaxSim.

        Raises:
            InputError: if a text is not a string.
        """
        tasks: tuple[tuple[str, Task], ...] = ((query, "query"), (document, "document"))
        vectors, names = [], []
        for text, task in tasks:
            tokens = self._tokenize([text], task)[0]
            surface = self._tokenizer.surface(text, tokens, task)
            names.append([name for name, kept in zip(surface, tokens.scored, strict=True) if kept])
            vectors.append(self._embed([tokens], lambda _: None)[0])
        return explain(vectors[0], vectors[1], names[0], names[1])
