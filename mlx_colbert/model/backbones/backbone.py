"""What a model needs of its backbone, the network between token ids and hidden states.

A new kind of backbone is one file with a class that has these members, and a row in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, runtime_checkable

from mlx_colbert.errors import InputError
from mlx_colbert.kernels import Backend, EncoderOps, Params
from mlx_colbert.types import Array

__all__ = ["MAX_FLOAT", "MAX_LAYERS", "Backbone", "Module", "check_ids"]

# Name, weight shape, and whether there is a bias.
Module = tuple[str, tuple[int, ...], bool]

# The largest one published so far has 48 layers. They are listed one by one: an absurd number must not be.
MAX_LAYERS = 1024
MAX_FLOAT = 1e38


@runtime_checkable
class Backbone(Protocol):
    """The settings of a backbone, a frozen dataclass, and what follows from them."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding table."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        ...

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        ...

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens, special tokens included."""
        ...

    @property
    def position(self) -> str:
        """How tokens get their positions; "absolute" is a table, which ends."""
        ...

    @property
    def type_vocab_size(self) -> int:
        """Rows of the token-type table; 0 for none."""
        ...

    def modules(self) -> Iterator[Module]:
        """Each module with parameters, by the name that they have in a converted model."""
        ...

    def ops(self, backend: Backend) -> EncoderOps:
        """The kernels that compute it.

        Raises:
            BackendError: if the backend cannot, or is not installed.
        """
        ...

    def prepared(self, params: Params) -> Params:
        """The parameters, arrays of the backend, in the form that `encode` takes."""
        ...

    def encode(self, ops: EncoderOps, params: Params, ids: Array, mask: Array) -> Any:
        """Hidden states of the last layer.

        Args:
            ops: as `ops` gives them.
            params: as `prepared` gives them.
            ids: (B, L) int, token ids.
            mask: (B, L) bool, the tokens that others attend to.

        Returns:
            (B, L, H), an array of the backend. Rows are defined for every position, attended to or not.

        Raises:
            InputError: if an id is beyond the vocabulary.
        """
        ...


def check_ids(ids: Array, vocab_size: int) -> None:
    """Refuses token ids that have no row in the table: MLX does not check the range of a gather.

    Raises:
        InputError: saying which range.
    """
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise InputError(
            f"token ids {ids.min()}..{ids.max()} exceed the model's vocabulary of {vocab_size}: "
            "tokenizer.json does not belong to these weights."
        )
