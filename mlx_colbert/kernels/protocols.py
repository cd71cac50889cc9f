"""What a backend can do: the kernels that a model asks for, and those that a search asks for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from mlx_colbert.types import Activation, Array, CodedRows, TokenEmbeddings

__all__ = ["CodedDocuments", "EncoderOps", "Params", "SearchOps"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Canonical parameter name -> array of the backend; "decoder" -> a module of mlx-lm's.
Params = Mapping[str, Any]


class CodedDocuments(Protocol):
    """The rows of n coded documents, one document after the other."""

    @property
    def lengths(self) -> Array:
        """(n,) int64, rows of each document, >= 1."""
        ...

    def codes(self) -> Array:
        """The codes (T,) of all rows."""
        ...

    def rows(self, positions: Array) -> CodedRows:
        """The rows at some positions (m,), ascending."""
        ...


class EncoderOps(Protocol):
    """What a model asks of a backend. `Any` is the backend's own array type."""

    name: Literal["mlx", "numpy"]
    # Rows of a batch are padded to a multiple of this, so that MLX's allocator can reuse its buffers.
    length_multiple: int
    # Tokens of a batch, padding included.
    batch_tokens: int

    def device(self) -> str:
        """The device's name, for people."""
        ...

    def default_dtype(self, stored: str) -> str:
        """The type to compute in where the caller names none, for weights stored as `stored`."""
        ...

    def load_params(self, tensors: Mapping[str, Array], dtype: str) -> dict[str, Any]:
        """The backend's arrays for named numpy arrays; integer (quantised) tensors keep their type."""
        ...

    def n_workers(self) -> int:
        """How many items `mapped` computes side by side, at most."""
        ...

    def mapped(
        self, function: Callable[[_Item], _Result], items: Sequence[_Item]
    ) -> Generator[_Result, None, None]:
        """The function of each item, in order. It may run in several threads. May be closed early."""
        ...

    def asarray(self, values: Array) -> Any:
        """The backend's array of a numpy array, type kept."""
        ...

    def to_numpy(self, values: Any) -> Array:
        """A float32 numpy array; waits for the computation."""
        ...

    def embedding(self, params: Params, name: str, ids: Any, width: int) -> Any:
        """Rows `ids` (B, L), their range checked, of the table `name` with `width` columns: (B, L, H)."""
        ...

    def linear(self, params: Params, name: str, x: Any) -> Any:
        """`x` (..., I) times the transposed matrix `name` (O, I), plus its bias if there is one: (..., O)."""
        ...

    def layer_norm(self, params: Params, name: str, x: Any, eps: float) -> Any:
        """Rows of `x` (..., H) with mean 0 and variance 1, times weight, plus bias if there is one."""
        ...

    def activate(self, activation: Activation, x: Any) -> Any:
        """The activation of each element; may overwrite `x`."""
        ...

    def rope(self, x: Any, theta: float) -> Any:
        """Rotary positions 0..L-1 on `x` (B, H, L, Dh), halves rotated (GPT-NeoX order)."""
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
        """Softmax attention of (B, H, L, Dh); a row that attends to nothing is zero.

        Args:
            q: (B, H, L, Dh).
            k: (B, H, L, Dh).
            v: (B, H, L, Dh).
            keys: (B, L) bool, True for a token that others attend to; None for all.
            window: tokens on each side that a token attends to; None for all. At least 1, and not together
                with slopes.
            slopes: (H,) float32: the score of tokens i and j is lower by slope times |i - j|.
        """
        ...

    def normalize(self, x: Any) -> Any:
        """Rows of `x` (..., D) with unit Euclidean norm, in float32."""
        ...


class SearchOps(Protocol):
    """What a search asks of a backend. `Any` is the backend's own array type."""

    name: Literal["mlx", "numpy"]
    # Document rows that `maxsim` takes at once.
    maxsim_rows: int

    def mapped(
        self, function: Callable[[_Item], _Result], items: Sequence[_Item]
    ) -> Generator[_Result, None, None]:
        """The function of each item, in order. It may run in several threads. May be closed early."""
        ...

    def asarray(self, values: Array) -> Any:
        """The backend's array of a numpy array, type kept."""
        ...

    def maxsim(self, queries: TokenEmbeddings, documents: TokenEmbeddings) -> Array:
        """MaxSim of every query with every document: (n_queries, N) float32, numpy.

        `documents.vectors` may be float16 or a read-only memory map and is read in blocks; every length >= 1.
        """
        ...

    def nearest(self, vectors: Array, centroids: Array, bias: Array) -> Array:
        """The centroid of the largest v·c + bias for each vector: (n,) int64, numpy.

        `vectors` is (n, D) of any float type, `centroids` (K, D) and `bias` (K,) are float32.
        """
        ...

    def probe(self, queries: Array, centroids: Any, weights: Array, n_probe: int) -> tuple[Any, Array, Array]:
        """The similarities of query tokens (Q, D) and centroids (K, D), and the best centroids of each token.

        Returns the similarities (Q, K), the backend's own; the n_probe <= K centroids of each token whose
        similarity times weight (K,) is largest, (Q, n_probe) int64, and those products, numpy, in any order.
        """
        ...

    def score_coded(
        self,
        queries: Array,
        similarities: Any,
        codebook: Array,
        rows: CodedDocuments,
        n_candidates: int,
        near: tuple[Array, Array],
    ) -> Array:
        """MaxSim of one query (Q, D) with n coded documents: (n,) float32, numpy.

        At least the `n_candidates` documents that score best by their near rows alone are scored by all of
        their rows; others may get -inf.

        Args:
            queries: (Q, D) float32, rotated as the codec's centroids are.
            similarities: (Q, K) from `probe`, rows of this query.
            codebook: (256, components per byte) float32.
            rows: the documents.
            n_candidates: how many are scored by all of their rows.
            near: the centroids whose rows count at first, (m,) int64; and the similarity that a token has at
                least for want of such rows, (Q,) float32.
        """
        ...
