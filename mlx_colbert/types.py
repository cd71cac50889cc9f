"""The values that modules exchange: numpy arrays, ragged token embeddings, hits."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, overload

import numpy as np
import numpy.typing as npt

from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError, ShapeError, said
from mlx_colbert.mlx_fork import check_readable

__all__ = [
    "Activation",
    "Array",
    "CompressedRows",
    "Hit",
    "OnOverflow",
    "Position",
    "Source",
    "TokenEmbeddings",
    "TokenMatch",
    "as_array",
    "is_one_array",
    "is_one_text",
    "is_real",
    "pack_arrays",
]

Array: TypeAlias = npt.NDArray[Any]

# What to do with a document of more tokens than a model reads.
OnOverflow = Literal["truncate", "error", "chunk"]
Activation = Literal["identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid"]


def as_array(values: Any, name: str = "embeddings") -> Array:
    """The numpy array of any array: numpy, MLX, torch, nested lists, `__array__` or DLPack.

    A numpy array is returned itself. bfloat16 becomes float32, because numpy has no bfloat16. An array of
    arrays, as a column of lists in a table is read, becomes one array.

    Args:
        values: the array.
        name: its name in an error message.

    Raises:
        ShapeError: if the value is not an array.
        BackendError: if it is an MLX array, in a process that was forked after MLX was loaded.

    >>> as_array([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    if isinstance(values, np.ndarray) and not _is_nested(values):
        return values.astype(np.float32) if values.dtype.name == "bfloat16" else values
    first = values
    while isinstance(first, list | tuple) and len(first):
        first = first[0]
    check_readable(first)
    try:
        if hasattr(values, "detach"):
            # torch: a tensor without gradients, on the CPU.
            values = values.detach().cpu()
        if "bfloat16" in str(getattr(values, "dtype", "")):
            # MLX needs its own float32 type. torch has a method.
            library = sys.modules[type(values).__module__]
            values = values.float() if hasattr(values, "float") else values.astype(library.float32)
        if hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
            return np.from_dlpack(values)
        if isinstance(values, list | tuple) and len(values) and hasattr(values[0], "shape"):
            values = [as_array(value, name) for value in values]
        array = np.asarray(values)
        return np.stack([as_array(value, name) for value in array]) if _is_nested(array) else array
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        # Lists of different lengths raise one of these too.
        raise ShapeError(f"{name}: a {type(values).__name__} is not an array: {said(error)}.") from error


def _is_nested(array: Array) -> bool:
    """Whether an array has arrays as its elements."""
    return array.dtype == object and array.ndim == 1 and len(array) > 0 and hasattr(array[0], "__len__")


def is_one_array(values: object) -> bool:
    """Whether a value is one array of any kind, and not a list or a column of a table, with many arrays.

    >>> is_one_array(np.ones((1, 2, 3))), is_one_array([np.ones((2, 3))])
    (True, False)
    """
    shape = getattr(values, "shape", None)
    if shape is None or len(shape) != 1 or not isinstance(values, Iterable):
        return shape is not None
    first = next(iter(values), None)
    # A number of torch has a length too, but it has no axes.
    return not hasattr(first, "__len__") or getattr(first, "shape", None) == ()


def is_one_text(values: object) -> bool:
    """Whether a value is one (n, D) array of any kind or as nested lists, and not a list of arrays.

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


# eq=False: the comparison of two arrays is not a single bool.
@dataclass(frozen=True, eq=False, repr=False)
class TokenEmbeddings(Sequence[Array]):
    """Ragged token embeddings of N texts in one array. A sequence of N arrays (n_tokens, D).

    Attributes:
        vectors: (T, D) float, unit rows: the rows of text 0, then those of text 1, and so on.
        lengths: (N,) int64, the number of rows of each text. Their sum is T.

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
                f"vectors must have the shape (T, D) and lengths (N,), "
                f"got {self.vectors.shape} and {self.lengths.shape}."
            )
        if self.lengths.dtype.kind not in "iu":
            raise ShapeError(f"lengths must be integers, got {self.lengths.dtype}.")
        # Checked before the sum, which could overflow.
        if ((self.lengths < 0) | (self.lengths > len(self.vectors))).any():
            raise ShapeError(f"lengths must be in 0..{len(self.vectors)}, the number of rows.")
        offsets = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        if offsets[-1] != len(self.vectors):
            raise ShapeError(f"lengths sum to {offsets[-1]}, but the number of rows is {len(self.vectors)}.")
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def pack(cls, arrays: Iterable[Array], *, dim: int | None = None) -> TokenEmbeddings:
        """Token embeddings from one (n_tokens, D) array per text.

        Args:
            arrays: N arrays (n_tokens, D) of any kind that `as_array` reads. All have the same D.
            dim: D. Needed only if `arrays` may be empty.

        Raises:
            ShapeError: if an array is not two-dimensional, or D differs.
            InputError: if a component is not a real number, or not finite.
        """
        if isinstance(arrays, TokenEmbeddings):
            return arrays
        embeddings = pack_arrays(arrays, dim=dim)
        vectors = embeddings.vectors
        if not is_real(vectors):
            raise InputError(f"the arrays of the texts are {vectors.dtype}, not real numbers.")
        if not _is_finite(vectors):
            row = int(np.isfinite(vectors).all(axis=1).argmin())
            text = int(np.searchsorted(embeddings.offsets, row, side="right")) - 1
            raise InputError(f"text {text}: a component is NaN or infinite. Give finite numbers.")
        return embeddings

    @property
    def dim(self) -> int:
        """D, the number of components of a vector."""
        return int(self.vectors.shape[1])

    def __repr__(self) -> str:
        rows = counted(len(self.vectors), "row")
        return f"<TokenEmbeddings of {counted(len(self), 'text')}: {rows} of {self.dim}>"

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
                return pack_arrays([self[i] for i in range(start, stop, step)], dim=self.dim)
            first, last = self.offsets[[start, max(start, stop)]]
            return TokenEmbeddings(self.vectors[first:last], self.lengths[start:stop])
        position = range(len(self))[index]
        vectors: Array = self.vectors[self.offsets[position] : self.offsets[position + 1]]
        return vectors

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))


def is_real(array: Array) -> bool:
    """Whether the components are real numbers."""
    return array.dtype.kind in "fiu"


def pack_arrays(arrays: Iterable[Array], *, dim: int | None = None) -> TokenEmbeddings:
    """The same as `TokenEmbeddings.pack`, without a check of the components.

    Args:
        arrays: N arrays (n_tokens, D) of any kind that `as_array` reads. All have the same D.
        dim: D. Needed only if `arrays` may be empty.

    Raises:
        ShapeError: if an array is not two-dimensional, or D differs.
    """
    if isinstance(arrays, TokenEmbeddings):
        return arrays
    if is_one_array(arrays):
        arrays = as_array(arrays)
        if arrays.ndim != 3:
            raise ShapeError(
                f"got one array {arrays.shape}. Give a list of (n_tokens, D) arrays, one for each text, "
                "or one (N, n_tokens, D) array."
            )
    parts = [as_array(array, "every text needs one (n_tokens, D) array") for array in arrays]
    widths = {part.shape[1] if part.ndim == 2 else -1 for part in parts}
    if -1 in widths or len(widths) > 1:
        shapes = ", ".join(str(part.shape) for part in parts[:4])
        raise ShapeError(f"every text needs one (n_tokens, D) array of the same D, got shapes {shapes}.")
    if not parts:
        return TokenEmbeddings(np.zeros((0, dim or 0), np.float32), np.zeros(0, np.int64))
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    return TokenEmbeddings(np.concatenate(parts), lengths)


def _is_finite(vectors: Array) -> bool:
    if vectors.dtype.kind != "f":
        return True
    if vectors.dtype == np.float16:
        # An exponent of ones means infinite or NaN. numpy itself is ten times as slow for this type.
        return bool((vectors.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)
    with np.errstate(over="ignore", invalid="ignore"):
        # The sum is not finite if a component is not. It takes a fifth of the time, but it may overflow.
        return bool(np.isfinite(vectors.sum()) or np.isfinite(vectors).all())


@dataclass(frozen=True, eq=False)
class CompressedRows:
    """n compressed token embeddings. `mlx_colbert.index.storage.codec` describes the format.

    Attributes:
        codes: (n,) unsigned integers, the number of the centroid of each.
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
        folder: for a file, the absolute path of the folder that the first part of the uri stands for.
        content_hash: hash of all its bytes. Equal hashes mean equal passages. An index forgets it when it
            changes or deletes single passages of the source.
        modified_ns: time of the last change, in nanoseconds since 1970.
        n_bytes: size in bytes.
    """

    uri: str
    folder: str | None = None
    content_hash: str | None = None
    modified_ns: int | None = None
    n_bytes: int | None = None


class Position(TypedDict, total=False):
    """The place of a passage in its source: a JSON object with the keys that are known.

    All numbers count from 1.
    """

    # First and last line.
    lines: list[int]
    page: int
    slide: int
    # Row of a table.
    row: int
    # Cell of a notebook.
    cell: int
    # The headings above the passage, the highest level first.
    headings: list[str]


@dataclass(frozen=True)
class Hit:
    """One search result.

    Attributes:
        rank: 1 for the best.
        score: MaxSim, in [-Q, Q] for Q query tokens; a "meanmaxsim" model divides it by Q. For a keyword
            search, BM25. For a hybrid search, the sum of the rank fusion.
        doc_id: the id of the passage.
        text: the stored text. None: there is none.
        metadata: the stored JSON object. None: there is none.
        source: the uri of the source that the passage comes from. None: there is none.
        position: the place of the passage in the source. None: it is not known.
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
    """One query token and the document token that matches it best.

    Attributes:
        query_token: text of the query token.
        document_token: text of the document token.
        document_position: row of the document token in the token embeddings of the document.
        similarity: the dot product of the two tokens, in [-1, 1].
    """

    query_token: str
    document_token: str
    document_position: int
    similarity: float
