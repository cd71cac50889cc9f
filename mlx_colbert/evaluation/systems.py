"""The systems that are compared: what is stored of the documents, and how it is searched."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np

from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.dataset import Dataset
from mlx_colbert.evaluation.encoded import encoded_texts
from mlx_colbert.evaluation.words import Bm25
from mlx_colbert.first_stage.muvera import Muvera
from mlx_colbert.first_stage.two_stage import TwoStage
from mlx_colbert.index import Index
from mlx_colbert.index.storage.codec import Bits
from mlx_colbert.kernels import get_search_ops
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import OnOverflow
from mlx_colbert.model.pooling import pool
from mlx_colbert.progress import Progress, silent
from mlx_colbert.retriever.fusion import fusion_depth, reciprocal_rank_fusion
from mlx_colbert.types import Array, Hit, TokenEmbeddings

__all__ = ["DEFAULT_SYSTEMS", "Built", "Encoded", "System", "built", "needs_model", "parse_system"]

DEFAULT_SYSTEMS = ("exact", "4bit", "2bit", "1bit", "pool2", "hybrid", "mean", "bm25")

# Ranking of a query: document ids with scores, best first.
Ranking: TypeAlias = list[tuple[str, float]]

# Documents that are added to an index at a time.
_DOCUMENTS_AT_ONCE = 2048
# Documents whose MUVERA encodings are computed at a time: 20 MB of float32.
_ENCODINGS_AT_ONCE = 512
# Candidates of a first stage, or as many as are wanted if these are more.
_N_CANDIDATES = 200


class Encoded:
    """A dataset and its token embeddings, encoded when they are first needed, for all systems.

    Args:
        dataset: the dataset.
        model: the model. None: only systems that need no model can be built.
        cache: as for `encoded_texts`.
        progress: as for `encoded_texts`.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: ColBERT | None,
        *,
        cache: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        self.dataset = dataset
        self.doc_ids = list(dataset.documents)
        self.texts = list(dataset.documents.values())
        self.query_texts = list(dataset.queries.values())
        self.n_tokens: int | None = None
        self._given, self._cache, self._progress = model, cache, progress
        self._documents: dict[OnOverflow, TokenEmbeddings] = {}

    @property
    def model(self) -> ColBERT:
        """The model.

        Raises:
            InputError: if there is none.
        """
        if self._given is None:
            raise InputError("a system needs a model, but none is given. Give one (--model).")
        return self._given

    @cached_property
    def queries(self) -> TokenEmbeddings:
        """The token embeddings of the queries."""
        return encoded_texts(
            self.model, self.query_texts, "query", cache=self._cache, progress=self._progress
        )

    def documents(self, on_overflow: OnOverflow = "truncate") -> TokenEmbeddings:
        """The token embeddings of the documents."""
        if on_overflow not in self._documents:
            found = encoded_texts(
                self.model,
                self.texts,
                "document",
                on_overflow=on_overflow,
                cache=self._cache,
                progress=self._progress,
            )
            self._documents[on_overflow] = found
            if on_overflow == "truncate":
                self.n_tokens = len(found.vectors)
        return self._documents[on_overflow]


@dataclass(frozen=True)
class System:
    """The settings of a system.

    Attributes:
        name: its name.
        kind: "index": MaxSim of an index. "hybrid": the same, fused with the keywords of the index. Else the
            name of a baseline.
        nbits: bits per component. None: float16, exact.
        pool_factor: token embeddings that are pooled to one.
        on_overflow: how documents are encoded that are too long for the model.
        first_stage: whether MUVERA finds the candidates that the index scores.
    """

    name: str
    kind: str = "index"
    nbits: Bits | None = None
    pool_factor: int = 1
    on_overflow: OnOverflow = "truncate"
    first_stage: bool = False


@dataclass(frozen=True)
class Built:
    """A system that has stored the documents of a dataset.

    Attributes:
        n_bytes: what it stores of the documents.
        n_vectors: the vectors that it stores. None: it stores none.
        search: the rankings of some queries, by their positions; at most k documents each.
    """

    n_bytes: int
    n_vectors: int | None
    search: Callable[[Sequence[int], int], list[Ranking]]


def parse_system(name: str) -> System:
    """The settings that a name stands for: "exact", or parts that are joined by "+".

    The parts are "8bit", "4bit", "2bit" and "1bit" (compressed), "pool2", "pool3", … (pooled), "chunk" (long
    documents are read to their end), "hybrid" (with keywords) and "muvera" (it finds the candidates). "mean"
    and "bm25" stand alone. "muvera" alone is the ranking by its single vectors.

    Raises:
        InputError: if the name is not understood.

    >>> parse_system("chunk+pool3+4bit").pool_factor
    3
    """
    if name in _BASELINES:
        return System(name, name)
    system = System(name)
    for part in name.split("+"):
        if found := re.fullmatch(r"([1248])bit", part):
            system = replace(system, nbits=cast(Bits, int(found[1])))
        elif found := re.fullmatch(r"pool([1-9]\d?)", part):
            system = replace(system, pool_factor=int(found[1]))
        elif part == "chunk":
            system = replace(system, on_overflow="chunk")
        elif part == "hybrid":
            system = replace(system, kind="hybrid")
        elif part == "muvera":
            system = replace(system, first_stage=True)
        elif part != "exact":
            parts = "exact, 8bit, 4bit, 2bit, 1bit, pool2, pool3, chunk, hybrid, muvera"
            raise InputError(
                f"the system {name!r} is not known. Give {', '.join(_BASELINES)}, or join some of {parts} "
                'by "+", such as pool2+4bit.'
            )
    return system


def needs_model(system: System) -> bool:
    """Whether a system needs the token embeddings of a model."""
    return system.kind != "bm25"


@contextmanager
def built(system: System, encoded: Encoded) -> Iterator[Built]:
    """A block in which a system can search. It is removed at the end of the block.

    Args:
        system: its settings.
        encoded: the dataset.

    Raises:
        InputError: if the system needs a model and there is none.
        MissingExtraError: if it needs an extra.
    """
    if system.kind in _BASELINES:
        yield _BASELINES[system.kind](encoded)
        return
    with tempfile.TemporaryDirectory() as folder, _index(system, encoded, Path(folder, "index")) as index:
        info = index.info()
        n_bytes, n_vectors, stages = info.bytes, info.tokens, None
        if system.first_stage:
            stages = TwoStage(index, Muvera.fit(encoded.documents(system.on_overflow)))
            stages.update()
            n_bytes, n_vectors = n_bytes + stages.vectors.nbytes, n_vectors + len(stages.vectors)

        def best(queries: TokenEmbeddings, k: int) -> list[list[Hit]]:
            if stages is None:
                return index.search(queries, k)
            return stages.search(queries, k, n_candidates=max(k, _N_CANDIDATES))

        def semantic(positions: Sequence[int], k: int) -> list[list[Hit]]:
            queries = _chosen(encoded.queries, positions)
            divisors = encoded.model.score_divisors(queries)
            return [
                [replace(hit, score=hit.score / float(divisor)) for hit in hits]
                for hits, divisor in zip(best(queries, k), divisors, strict=True)
            ]

        def hybrid(positions: Sequence[int], k: int) -> list[list[Hit]]:
            depth = fusion_depth(k)
            words = [index.search_keywords(encoded.query_texts[place], depth) for place in positions]
            pairs = zip(semantic(positions, depth), words, strict=True)
            return [reciprocal_rank_fusion(pair, (1.0, 1.0), k) for pair in pairs]

        search = hybrid if system.kind == "hybrid" else semantic
        yield Built(
            n_bytes,
            n_vectors,
            lambda positions, k: [[(hit.doc_id, hit.score) for hit in hits] for hits in search(positions, k)],
        )


def _index(system: System, encoded: Encoded, path: Path) -> Index:
    """A new index of the documents."""
    documents = encoded.documents(system.on_overflow)
    index = Index.create(
        path,
        documents.dim,
        nbits=system.nbits or 8,
        exact_tokens=None if system.nbits is None else 0,
        backend=encoded.model.backend,
    )
    try:
        with index.bulk():
            for start in range(0, len(documents), _DOCUMENTS_AT_ONCE):
                part = slice(start, start + _DOCUMENTS_AT_ONCE)
                # Texts cost bytes, and only keywords need them.
                texts = encoded.texts[part] if system.kind == "hybrid" else None
                index.add(encoded.doc_ids[part], pool(documents[part], system.pool_factor), texts)
    except BaseException:
        index.close()
        raise
    return index


def _chosen(queries: TokenEmbeddings, positions: Sequence[int]) -> TokenEmbeddings:
    return TokenEmbeddings.pack([queries[place] for place in positions], dim=queries.dim)


def _bm25(encoded: Encoded) -> Built:
    index = Bm25(encoded.texts)

    def search(positions: Sequence[int], k: int) -> list[Ranking]:
        found = (index.best(encoded.query_texts[place], k) for place in positions)
        return [[(encoded.doc_ids[document], score) for document, score in hits] for hits in found]

    return Built(index.n_bytes, None, search)


def _mean(encoded: Encoded) -> Built:
    """One vector for each text: the mean of its token embeddings, at unit length; ranked by the cosine.

    These are the unit rows of the public interface. A library that pools hidden states has other figures. The
    vectors are stored as float32: float16 cannot tell means apart that are nearly parallel.
    """
    return _single_vectors(encoded, _unit_means(encoded.documents()), _unit_means)


def _muvera(encoded: Encoded) -> Built:
    """One vector for each text: its MUVERA encoding; ranked by the inner product."""
    documents = encoded.documents()
    muvera = Muvera.fit(documents)
    parts = (
        muvera.encode_document(documents[start : start + _ENCODINGS_AT_ONCE]).astype(np.float16)
        for start in range(0, len(documents), _ENCODINGS_AT_ONCE)
    )
    return _single_vectors(encoded, np.concatenate(list(parts)), muvera.encode_query)


def _single_vectors(
    encoded: Encoded, documents: Array, encode_query: Callable[[TokenEmbeddings], Array]
) -> Built:
    """A vector for each document (N, size), stored as it is. A search computes those of its queries."""
    ops = get_search_ops(encoded.model.backend)
    # MaxSim of texts of one vector is their inner product.
    stored = _one_each(documents)

    def search(positions: Sequence[int], k: int) -> list[Ranking]:
        scores = ops.maxsim(_one_each(encode_query(_chosen(encoded.queries, positions))), stored)
        k = min(k, len(documents))
        first = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return [
            sorted(((encoded.doc_ids[place], float(row[place])) for place in places), key=lambda hit: -hit[1])
            for row, places in zip(scores, first, strict=True)
        ]

    return Built(documents.nbytes, len(documents), search)


def _one_each(vectors: Array) -> TokenEmbeddings:
    return TokenEmbeddings(vectors, np.ones(len(vectors), np.int64))


def _unit_means(texts: TokenEmbeddings) -> Array:
    """The means of the rows of each text, at unit length: (N, D) float32."""
    means = np.stack([rows.mean(axis=0, dtype=np.float32) for rows in texts])
    unit: Array = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return unit


# Baselines: name → the system of a dataset. Another one is a function and a row.
_BASELINES: dict[str, Callable[[Encoded], Built]] = {"mean": _mean, "muvera": _muvera, "bm25": _bm25}
