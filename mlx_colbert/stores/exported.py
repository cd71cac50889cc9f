"""Passages of an index with their token embeddings, as an export writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from mlx_colbert.index import StoredPassage
from mlx_colbert.types import Array, TokenEmbeddings

__all__ = ["Block", "Format", "json_line", "short_numbers", "storable_text"]

# XML and Vespa allow none of these in a text.
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True, eq=False)
class Block:
    """N passages.

    Attributes:
        passages: N passages.
        embeddings: their token embeddings, float32.
    """

    passages: list[StoredPassage]
    embeddings: TokenEmbeddings

    def __iter__(self) -> Iterator[tuple[StoredPassage, Array]]:
        return zip(self.passages, self.embeddings, strict=True)


class Format(Protocol):
    """A format of files that an export writes. Its modules have these names."""

    # Passages in a part.
    PASSAGES: int
    # The name of a part, with a place for its number.
    PART: str

    def fixed_files(self, dim: int) -> dict[str, str]:
        """The text of each file that does not depend on the passages, by its path."""
        ...

    def write(self, block: Block, file: BinaryIO) -> None:
        """Write a part."""
        ...


def json_line(value: Any) -> bytes:
    """A JSON value as one line of UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def short_numbers(vectors: Array) -> list[list[float]]:
    """Vectors as lists, rounded to five significant digits: float16 has less than that.

    >>> short_numbers(np.array([[0.123456, -0.00098765432, 0.0]], np.float32))
    [[0.12346, -0.00098765, 0.0]]
    """
    wide = vectors.astype(np.float64)
    sizes = np.abs(wide)
    sizes[sizes == 0] = 1
    scale = 10.0 ** (4 - np.floor(np.log10(sizes)))
    rounded: list[list[float]] = (np.round(wide * scale) / scale).tolist()
    return rounded


def storable_text(text: str | None) -> str | None:
    """A text with U+FFFD in place of the control characters that an engine refuses."""
    return None if text is None else _CONTROL.sub("\ufffd", text)
