"""The values that cross module borders: numpy arrays, ragged token embeddings, hits."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, overload

import numpy as np
import numpy.typing as npt

from mlx_colbert.errors import ShapeError

__all__ = [
    "Activation",
    "Array",
    "CodedRows",
    "Hit",
    "Position",
    "Source",
    "TokenEmbeddings",
    "TokenMatch",
    "as_array",
    "is_one_text",
]

Array: TypeAlias = npt.NDArray[Any]

Activation = Literal["identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid"]


def as_array(values: Any, name: str = "embeddings") -> Array:
    """The numpy array of an array of any kind: numpy, MLX, torch, nested lists, `__array__` or DLPack.

    A numpy array is returned as it is. bfloat16, which numpy lacks, becomes float32.

    Args:
        values: the array.
        name: what an error calls it.

    Raises:
        ShapeError: if it is no array.

    >>> as_array([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    if isinstance(values, np.ndarray):
        return values.astype(np.float32) if values.dtype.name == "bfloat16" else values
    try:
        if hasattr(values, "detach"):
            # torch: out of the graph, and off the GPU.
            values = values.detach().cpu()
        if "bfloat16" in str(getattr(values, "dtype", "")):
            # MLX's own name of its float32; torch has a method.
            library = sys.modules[type(values).__module__]
            values = values.float() if hasattr(values, "float") else values.astype(library.float32)
        if hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
            return np.from_dlpack(values)
        if isinstance(values, list | tuple) and len(values) and hasattr(values[0], "shape"):
            values = [as_array(value, name) for value in values]
        return np.asarray(values)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        # Lists of different lengths, too.
        raise ShapeError(f"{name}: a {type(values).__name__} is not an array: {error}.") from error


def is_one_text(values: object) -> bool:
    """Whether a value is one array (n, D), as an array of any kind or as nested lists; not several of them.

    >>> is_one_text(np.ones((2, 3))), is_one_text([[1, 2]]), is_one_text([np.ones((2, 3))])
    (True, True, False)
    """
    n_axes = 0
    while isinstance(values, list | tuple) and len(values):
        values, n_axes = values[0], n_axes + 1
    if isinstance(values, TokenEmbeddings):
        return False
    if not hasattr(values, "shape") and (hasattr(values, "__array__") or hasattr(values, "__dlpack__")):
        values = as_array(values)
    return n_axes + len(getattr(values, "shape", ())) == 2


# eq=False: arrays have no single truth value to compare by.
@dataclass(frozen=True, eq=False, repr=False)
class TokenEmbeddings(Sequence[Array]):
    """Ragged token embeddings of N texts, packed; behaves as a sequence of N arrays (n_tokens, D).

    Attributes:
        vectors: (T, D) float, unit rows; the rows of text 0, then those of text 1, and so on.
        lengths: (N,) int64, rows of each text; they sum to T.

    >>> embeddings = TokenEmbeddings.pack([np.eye(2, dtype=np.float32), np.ones((1, 2), np.float32)])
    >>> embeddings, embeddings[0].shape, embeddings[-1].shape
    (<TokenEmbeddings of 2 texts: 3 rows of 2>, (2, 2), (1, 2))
    """

    vectors: Array
    lengths: Array
    offsets: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", as_array(self.vectors, "vectors"))
        object.__setattr__(self, "lengths", as_array(self.lengths, "lengths"))
        if self.vectors.ndim != 2 or self.lengths.ndim != 1:
            raise ShapeError(
                f"token embeddings are (T, D) with lengths (N,), "
                f"got {self.vectors.shape} and {self.lengths.shape}."
            )
        if self.lengths.dtype.kind not in "iu":
            raise ShapeError(f"lengths are {self.lengths.dtype}, not integers.")
        # Before they are summed, which could wrap around.
        if ((self.lengths < 0) | (self.lengths > len(self.vectors))).any():
            raise ShapeError(f"lengths must lie in 0..{len(self.vectors)}, the number of rows.")
        offsets = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        if offsets[-1] != len(self.vectors):
            raise ShapeError(f"lengths sum to {offsets[-1]}, but there are {len(self.vectors)} rows.")
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def pack(cls, arrays: Iterable[Array], *, dim: int | None = None) -> TokenEmbeddings:
        """Token embeddings from one (n_tokens, D) array per text.

        Args:
            arrays: N arrays (n_tokens, D) of any kind that `as_array` takes, one D for all.
            dim: D, needed only where `arrays` may be empty.

        Raises:
            ShapeError: if an array is not two-dimensional, or D differs.
        """
        if isinstance(arrays, TokenEmbeddings):
            return arrays
        if hasattr(arrays, "shape"):
            arrays = as_array(arrays)
            if arrays.ndim != 3:
                raise ShapeError(
                    f"got one array {arrays.shape}. One text has a (n_tokens, D) array, several texts have "
                    "a list of them, or one (N, n_tokens, D) array."
                )
        parts = [as_array(array, "every text needs one (n_tokens, D) array") for array in arrays]
        widths = {part.shape[1] if part.ndim == 2 else -1 for part in parts}
        if -1 in widths or len(widths) > 1:
            shapes = ", ".join(str(part.shape) for part in parts[:4])
            raise ShapeError(f"every text needs one (n_tokens, D) array of the same D, got shapes {shapes}.")
        if not parts:
            return cls(np.zeros((0, dim or 0), np.float32), np.zeros(0, np.int64))
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        return cls(np.concatenate(parts), lengths)

    @property
    def dim(self) -> int:
        """D, the number of components of a vector."""
        return int(self.vectors.shape[1])

    def __repr__(self) -> str:
        return f"<TokenEmbeddings of {len(self)} texts: {len(self.vectors)} rows of {self.dim}>"

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> TokenEmbeddings: ...
    def __getitem__(self, index: int | slice) -> Array | TokenEmbeddings:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return TokenEmbeddings.pack([self[i] for i in range(start, stop, step)], dim=self.dim)
            first, last = self.offsets[[start, max(start, stop)]]
            return TokenEmbeddings(self.vectors[first:last], self.lengths[start:stop])
        position = range(len(self))[index]
        vectors: Array = self.vectors[self.offsets[position] : self.offsets[position + 1]]
        return vectors

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, eq=False)
class CodedRows:
    """n token embeddings as centroid numbers and residual bytes: see `mlx_colbert.index.storage.codec`.

    Attributes:
        codes: (n,) unsigned integers, numbers of centroids.
        residuals: (n, D · nbits / 8) uint8.
        scales: (n,) float32.
        gains: (n,) float32.
    """

    codes: Array
    residuals: Array
    scales: Array
    gains: Array


@dataclass(frozen=True)
class Source:
    """A file, a page or a record that passages come from.

    Attributes:
        uri: its name in an index, such as "notes/tea.md" or "https://example.org/tea".
        folder: of a file, the absolute path of the folder that the first part of the uri stands for.
        content_hash: of all its bytes; equal hashes mean equal content.
        modified_ns: when it was changed last, in nanoseconds since 1970.
        n_bytes: its size.
    """

    uri: str
    folder: str | None = None
    content_hash: str | None = None
    modified_ns: int | None = None
    n_bytes: int | None = None


class Position(TypedDict, total=False):
    """Where a passage stands in its source: a JSON object with those of the keys that are known.

    All numbers count from 1.
    """

    # First and last line.
    lines: list[int]
    page: int
    slide: int
    # Of a table.
    row: int
    # Of a notebook.
    cell: int
    # The titles above it, from the outside in.
    headings: list[str]


@dataclass(frozen=True)
class Hit:
    """One search result.

    Attributes:
        rank: 1 for the best.
        score: MaxSim, in [-Q, Q] for Q query tokens, for a "meanmaxsim" model divided by Q; BM25 of a keyword
            search; the sum of a rank fusion.
        doc_id: the id that the passage was added with.
        text: the stored text, if any.
        metadata: the stored JSON object, if any.
        source: the uri of the source that the passage came from, if any.
        position: where it stands in the source, if that is known.
    """

    rank: int
    score: float
    doc_id: str
    text: str | None = None
    metadata: Mapping[str, Any] | None = None
    source: str | None = None
    position: Position | None = None

    def to_dict(self) -> dict[str, Any]:
        """The hit as a JSON object.

        >>> list(Hit(1, 2.5, "tea", "Tea is steeped.").to_dict())
        ['rank', 'score', 'doc_id', 'text', 'metadata', 'source', 'position']
        """
        metadata = None if self.metadata is None else dict(self.metadata)
        position = None if self.position is None else dict(self.position)
        return {**vars(self), "metadata": metadata, "position": position}


@dataclass(frozen=True)
class TokenMatch:
    """The document token that one query token matched best.

    Attributes:
        query_token: text of the query token.
        document_token: text of the document token.
        document_position: row of the document token in the document's token embeddings.
        similarity: their dot product, in [-1, 1].
    """

    query_token: str
    document_token: str
    document_position: int
    similarity: float
