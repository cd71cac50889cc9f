"""Vectors of texts as JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import Task
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.texts import encoded, n_tokens_of
from mlx_colbert.server.settings import Limits
from mlx_colbert.types import Array

__all__ = ["TextInput", "Vectors", "check_dimensions", "vectors_json"]

# A component is at most 1. A float32 near 1 has a step of 6e-8.
_DECIMALS = 8


class TextInput(BaseModel):
    """A text as an object."""

    model_config = ConfigDict(extra="forbid")

    text: str


@dataclass(frozen=True, eq=False)
class Vectors:
    """Token embeddings of N texts.

    Attributes:
        arrays: N arrays (n_tokens, D) float32.
        n_tokens: tokens that the model read.
    """

    arrays: list[Array]
    n_tokens: int

    @classmethod
    def of(cls, model: ColBERT, texts: Sequence[str], tasks: Sequence[Task], limits: Limits) -> Vectors:
        """The token embeddings of texts.

        Args:
            model: the model.
            texts: N texts.
            tasks: N tasks.
            limits: those of the server.

        Raises:
            Problem: 422, if there are too many tokens, or the answer would be too large.
        """
        arrays: dict[int, Array] = {}
        n_tokens = 0
        kinds: tuple[Task, ...] = ("query", "document")
        for task in kinds:
            numbers = [number for number, other in enumerate(tasks) if other == task]
            if numbers:
                embeddings, tokens = encoded(model, [texts[number] for number in numbers], task, limits)
                arrays.update(zip(numbers, embeddings, strict=True))
                n_tokens += n_tokens_of(tokens)
        found = cls([arrays[number] for number in range(len(texts))], n_tokens)
        n_values = sum(array.size for array in found.arrays)
        if n_values > limits.n_values:
            detail = f"The answer would have {n_values:,} numbers; at most {limits.n_values:,} are allowed."
            raise Problem(422, f"{detail} Send fewer texts.")
        return found

    def rows(self, number: int, *, is_base64: bool) -> list[Any]:
        """The vectors of a text, as JSON has them."""
        array = np.ascontiguousarray(self.arrays[number], "<f4")
        if is_base64:
            return [base64.b64encode(row.tobytes()).decode() for row in array]
        rows: list[Any] = array.astype(np.float64).round(_DECIMALS).tolist()
        return rows


def check_dimensions(model: ColBERT, dimensions: int | None) -> None:
    """Refuse another number of dimensions than that of the model.

    Raises:
        Problem: 422, if it differs.
    """
    if dimensions not in (None, model.dim):
        raise Problem(422, f"dimensions: the model has {model.dim}, not {dimensions}. Leave it out.")


def vectors_json(head: Mapping[str, Any], items: Iterable[Any], **tail: Any) -> bytes:
    """A JSON object with the key `data`. The items are written one by one, so that other threads may run."""
    data = b",".join(to_json(item) for item in items)
    return b'%b,"data":[%b],%b' % (to_json(head)[:-1], data, to_json(tail)[1:])
