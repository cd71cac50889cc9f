"""Search in two stages: candidates by one vector for each passage, then their exact MaxSim."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from mlx_colbert.checks import check_k, check_whole
from mlx_colbert.errors import InputError, TargetExistsError
from mlx_colbert.index import Index, SearchParams, StoredPassage
from mlx_colbert.kernels import get_search_ops
from mlx_colbert.types import Array, Hit, TokenEmbeddings

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["SingleVectorEncoder", "TwoStage", "sample_passages"]

# Passages that are encoded at once.
_PASSAGES = 512
_VECTORS, _IDS, _DIGESTS = "vectors.npy", "ids.json", "digests.npy"


class SingleVectorEncoder(Protocol):
    """What turns token embeddings into single vectors: `Muvera`, `Lemur`."""

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the model of the token embeddings, if it is known."""
        ...

    @property
    def size(self) -> int:
        """The number of components of a vector."""
        ...

    def encode_query(self, queries: TokenEmbeddings) -> Array:
        """The vectors of queries: (n, size)."""
        ...

    def encode_document(self, documents: TokenEmbeddings) -> Array:
        """The vectors of passages: (N, size)."""
        ...


class TwoStage:
    """A search of an index that looks only at the passages with the best single vectors.

    Attributes:
        index: the index of the token embeddings.
        encoder: what makes the single vectors.
        doc_ids: N ids.
        vectors: (N, size) float16, the single vectors of these passages.
        digests: (N,) uint64, what the passages were when they were encoded.
    """

    def __init__(
        self,
        index: Index,
        encoder: SingleVectorEncoder,
        doc_ids: Sequence[str] = (),
        vectors: Array | None = None,
        digests: Array | None = None,
        *,
        backend: Backend = "auto",
    ) -> None:
        """Join an index and an encoder.

        Args:
            index: the index of the token embeddings.
            encoder: what makes the single vectors.
            doc_ids: N ids whose vectors are known.
            vectors: (N, size) float16, their vectors.
            digests: (N,) uint64, their digests. Without them, `update` encodes these passages again.
            backend: the kernels for the first stage.

        Raises:
            ModelMismatchError: if the encoder was fitted on vectors of another model.
        """
        if encoder.fingerprint is not None:
            index.check_model({"source": "the first stage", "fingerprint": encoder.fingerprint})
        self.index = index
        self.encoder = encoder
        self.doc_ids = list(doc_ids)
        self.vectors = np.zeros((0, encoder.size), np.float16) if vectors is None else vectors
        self.digests = np.zeros(len(self.doc_ids), np.uint64) if digests is None else digests
        # The last commit of the index that `update` has seen.
        self._commit: tuple[int, int, int] | None = None
        self._ops = get_search_ops(backend)

    def update(self) -> int:
        """Encode what is new or changed in the index, and drop what it lost; returns how many were encoded.

        A passage is changed if its text, its headings or the number of its token embeddings is another one.
        Without a text, its token embeddings are compared.
        """
        commit = self.index.commit
        if commit == self._commit:
            return 0
        present = self._present()
        known = dict(zip(self.doc_ids, self.digests.tolist(), strict=True))
        new = [doc_id for doc_id, digest in present.items() if known.get(doc_id) != digest]
        if len(known) + len(new) > len(present):
            kept = [i for i, doc_id in enumerate(self.doc_ids) if present.get(doc_id) == known[doc_id]]
            self.doc_ids, self.vectors = [self.doc_ids[i] for i in kept], self.vectors[kept]
        parts = [self.vectors]
        for start in range(0, len(new), _PASSAGES):
            documents = self.index.embeddings(new[start : start + _PASSAGES])
            parts.append(self.encoder.encode_document(documents).astype(np.float16))
        if new:
            self.vectors = np.concatenate(parts)
        self.doc_ids += new
        self.digests = np.array([present[doc_id] for doc_id in self.doc_ids], np.uint64)
        self._commit = commit
        return len(new)

    def _present(self) -> dict[str, int]:
        """The digest of each passage of the index."""
        found, without_text = {}, []
        for passage in self.index.passages():
            found[passage.doc_id] = _digest(_words(passage))
            if passage.text is None:
                without_text.append(passage.doc_id)
        for start in range(0, len(without_text), _PASSAGES):
            ids = without_text[start : start + _PASSAGES]
            for doc_id, vectors in zip(ids, self.index.embeddings(ids), strict=True):
                found[doc_id] = _digest(vectors.tobytes())
        return found

    def candidates(self, queries: TokenEmbeddings, n: int) -> list[list[str]]:
        """The ids of the n passages with the largest inner product, best first, for each query."""
        n = min(check_whole(n, "n", at_least=1), len(self.doc_ids))
        if not n:
            return [[] for _ in queries]
        # MaxSim of texts of one vector is their inner product.
        ones = TokenEmbeddings(self.vectors, np.ones(len(self.vectors), np.int64))
        vectors = self.encoder.encode_query(queries)
        scores = self._ops.maxsim(TokenEmbeddings(vectors, np.ones(len(vectors), np.int64)), ones)
        found = []
        for row in scores:
            best = np.argpartition(-row, n - 1)[:n]
            found.append([self.doc_ids[number] for number in best[np.argsort(-row[best], kind="stable")]])
        return found

    def search(self, queries: TokenEmbeddings, k: int = 10, *, n_candidates: int = 200) -> list[list[Hit]]:
        """The k candidates with the highest MaxSim, for each query.

        Args:
            queries: the token embeddings of n queries.
            k: how many, 1 or more.
            n_candidates: the passages of the first stage, k or more.

        Raises:
            InputError: if k or n_candidates cannot be used.
            ShapeError: if D is not the index's.
        """
        if check_whole(n_candidates, "n_candidates", at_least=1) < check_k(k):
            raise InputError(f"n_candidates is {n_candidates}, but k is {k}. Give at least k.")
        every = SearchParams(exact=True)
        return [
            self.index.search([query], k, doc_ids=doc_ids, params=every)[0]
            for query, doc_ids in zip(queries, self.candidates(queries, n_candidates), strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """Write ids, vectors and digests to a new folder. Save the encoder by itself.

        Raises:
            TargetExistsError: if the folder exists.
        """
        folder = Path(folder)
        if folder.exists():
            raise TargetExistsError(folder, advice="Choose a path that does not exist.")
        beside = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        np.save(beside / _VECTORS, self.vectors, allow_pickle=False)
        np.save(beside / _DIGESTS, self.digests, allow_pickle=False)
        (beside / _IDS).write_text(json.dumps(self.doc_ids), encoding="utf-8")
        beside.rename(folder)

    @classmethod
    def open(
        cls, folder: str | Path, index: Index, encoder: SingleVectorEncoder, *, backend: Backend = "auto"
    ) -> Self:
        """Read what `save` wrote. The vectors are mapped, so only what is read is in memory.

        Args:
            folder: the folder that was given to `save`.
            index: the index that the vectors were made from.
            encoder: the encoder that made them.
            backend: the kernels for searches.

        Raises:
            InputError: if the files are damaged, or are of another encoder.
            OSError: if they cannot be read.
        """
        try:
            doc_ids = json.loads((Path(folder) / _IDS).read_text(encoding="utf-8"))
            vectors = np.load(Path(folder) / _VECTORS, mmap_mode="r", allow_pickle=False)
            digests = np.load(Path(folder) / _DIGESTS, allow_pickle=False)
        except ValueError as error:
            raise InputError(f"{folder}: is damaged. Make it again with update and save.") from error
        if vectors.shape != (len(doc_ids), encoder.size) or vectors.dtype != np.float16:
            what = f"has vectors of the shape {vectors.shape}"
            raise InputError(f"{folder}: {what}, not ({len(doc_ids)}, {encoder.size}). Make it again.")
        if digests.shape != (len(doc_ids),) or digests.dtype != np.uint64:
            what = f"has digests of the shape {digests.shape}"
            raise InputError(f"{folder}: {what}, not ({len(doc_ids)},). Make it again.")
        return cls(index, encoder, doc_ids, vectors, digests, backend=backend)


def sample_passages(index: Index, n: int = 2048, *, seed: int = 42) -> TokenEmbeddings:
    """The token embeddings of up to n random passages of an index, to fit an encoder on.

    Args:
        index: the index.
        n: the most passages.
        seed: the same seed gives the same passages.
    """
    doc_ids = index.ids()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(doc_ids), min(n, len(doc_ids)), replace=False)
    return index.embeddings([doc_ids[number] for number in sorted(chosen.tolist())])


def _words(passage: StoredPassage) -> bytes:
    headings = (passage.position or {}).get("headings") or []
    return json.dumps([passage.text, headings, passage.n_tokens]).encode()


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
