"""The interfaces of a backend: the kernels for models and the kernels for searches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from mlx_colbert.types import Activation, Array, CompressedRows, TokenEmbeddings

__all__ = ["CompressedDocuments", "EncoderOps", "Params", "SearchOps"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Canonical name of a parameter -> array of the backend. For a decoder: "decoder" -> a module of mlx-lm.
Params = Mapping[str, Any]


class CompressedDocuments(Protocol):
    """The rows of n compressed documents, one document after the other."""

    @property
    def lengths(self) -> Array:
        """(n,) int64, rows of each document, >= 1."""
        ...

    def codes(self) -> Array:
        """The centroid numbers (T,) of all rows."""
        ...

    def rows(self, positions: Array) -> CompressedRows:
        """The rows at the positions (m,), which are ascending."""
        ...


class EncoderOps(Protocol):
    """The kernels for a model. `Any` is the array type of the backend."""

    name: Literal["mlx", "numpy"]
    # Rows of a batch are padded to a multiple of this, so that the allocator of MLX can reuse its buffers.
    length_multiple: int
    # Tokens of a batch, padding included.
    batch_tokens: int

    def device(self) -> str:
        """The name of the device, as text for people."""
        ...

    def default_dtype(self, stored: str) -> str:
        """The type to compute in by default, for weights stored as `stored`."""
        ...

    def load_params(self, tensors: Mapping[str, Array], dtype: str) -> dict[str, Any]:
        """The arrays of the backend for named numpy arrays. Integer (quantised) tensors keep their type."""
        ...

    def n_workers(self) -> int:
        """The most items that `mapped` computes at the same time."""
        ...

    def mapped(
        self, function: Callable[[_Item], _Result], items: Sequence[_Item]
    ) -> Generator[_Result, None, None]:
        """The results of the function for each item, in order.

        The function may run in several threads. The generator may be closed early.
        """
        ...

    def asarray(self, values: Array) -> Any:
        """The array of the backend for a numpy array. The type stays the same."""
        ...

    def to_numpy(self, values: Any) -> Array:
        """A float32 numpy array. This waits for the computation."""
        ...

    def embedding(self, params: Params, name: str, ids: Any, width: int) -> Any:
        """Rows `ids` (B, L) of the table `name` with `width` columns: (B, L, H). `ids` are in range."""
        ...

    def linear(self, params: Params, name: str, x: Any) -> Any:
        """`x` (..., I) times the transposed matrix `name` (O, I), plus its bias if there is one: (..., O)."""
        ...

    def layer_norm(self, params: Params, name: str, x: Any, eps: float) -> Any:
        """Rows of `x` (..., H) with mean 0 and variance 1, times weight, plus bias if there is one."""
        ...

    def activate(self, activation: Activation, x: Any) -> Any:
        """The activation of each element. This may overwrite `x`."""
        ...

    def rope(self, x: Any, theta: float) -> Any:
        """`x` (B, H, L, Dh) with rotary positions 0..L-1, in pairs across the two halves (GPT-NeoX order)."""
        ...

    def attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        keys: Any | None,
        window: int | None = None,
        slopes: Array | None = None,
    ) -> Any:
        """Softmax attention of (B, H, L, Dh). The row of a token that attends to no token is zero.

        Args:
            q: (B, H, L, Dh).
            k: (B, H, L, Dh).
            v: (B, H, L, Dh).
            keys: (B, L) bool, True for a token that others attend to. None: all.
            window: number of tokens on each side that a token attends to, at least 1. None: all tokens. Not
                together with slopes.
            slopes: (H,) float32. The score of tokens i and j is lower by slope times |i - j|.
        """
        ...

    def normalize(self, x: Any) -> Any:
        """Rows of `x` (..., D) with unit Euclidean norm, in float32."""
        ...


class SearchOps(Protocol):
    """The kernels for a search. `Any` is the array type of the backend."""

    name: Literal["mlx", "numpy"]
    # Document rows that `maxsim` computes at once.
    maxsim_rows: int

    def mapped(
        self, function: Callable[[_Item], _Result], items: Sequence[_Item]
    ) -> Generator[_Result, None, None]:
        """The results of the function for each item, in order.

        The function may run in several threads. The generator may be closed early.
        """
        ...

    def asarray(self, values: Array) -> Any:
        """The array of the backend for a numpy array. The type stays the same."""
        ...

    def maxsim(self, queries: TokenEmbeddings, documents: TokenEmbeddings) -> Array:
        """MaxSim of every query with every document: (n_queries, N) float32, numpy.

        `documents.vectors` may be float16, or a read-only memory map. It is read in blocks. Every length is
        >= 1.
        """
        ...

    def nearest(self, vectors: Array, centroids: Array, bias: Array) -> Array:
        """The centroid of the largest v·c + bias for each vector: (n,) int64, numpy.

        `vectors` is (n, D) of any float type, `centroids` (K, D) and `bias` (K,) are float32.
        """
        ...

    def probe(self, queries: Array, centroids: Any, weights: Array, n_probe: int) -> tuple[Any, Array, Array]:
        """The similarities of query tokens (Q, D) and centroids (K, D), and the best centroids of each token.

        Returns:
            The similarities (Q, K), an array of the backend. The n_probe <= K centroids of each token with
            the largest similarity times weight (K,), in any order: (Q, n_probe) int64, numpy. Their
            similarities times weights: (Q, n_probe), numpy.
        """
        ...

    def score_compressed(
        self,
        queries: Array,
        similarities: Any,
        codebook: Array,
        rows: CompressedDocuments,
        n_candidates: int,
        near: tuple[Array, Array],
    ) -> Array:
        """MaxSim of one query (Q, D) with n compressed documents: (n,) float32, numpy.

        First, documents are scored from their near rows only: the rows of near centroids. Then at least the
        best `n_candidates` documents are scored from all their rows. The others may get -inf.

        Args:
            queries: (Q, D) float32, rotated like the centroids of the codec.
            similarities: (Q, K) from `probe`, the rows of this query.
            codebook: (256, components per byte) float32.
            rows: the documents.
            n_candidates: the number of documents to score from all their rows.
            near: the near centroids, (m,) int64, and the least similarity of each token in the first scoring,
                (Q,) float32.
        """
        ...
