"""The interface of a backbone: the network that turns token ids into hidden states.

A new kind of backbone needs one file, with a class that has these members, and a row in `registry.py`.
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

# The largest published encoder has 48 layers. The code lists each layer, so a huge number would take for
# ever.
MAX_LAYERS = 1024
MAX_FLOAT = 1e38


@runtime_checkable
class Backbone(Protocol):
    """The settings of a backbone (a frozen dataclass), and the functions that depend on them."""

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
        """How tokens get their positions. "absolute" is a table, which limits the length of a text."""
        ...

    @property
    def type_vocab_size(self) -> int:
        """Rows of the token-type table; 0 for none."""
        ...

    def modules(self) -> Iterator[Module]:
        """The modules that have parameters, by their names in a converted model."""
        ...

    def ops(self, backend: Backend) -> EncoderOps:
        """The kernels that compute this backbone.

        Raises:
            BackendError: if the backend cannot compute it, or is not installed.
        """
        ...

    def prepared(self, params: Params) -> Params:
        """The parameters, arrays of the backend, in the form that `encode` takes."""
        ...

    def encode(self, ops: EncoderOps, params: Params, ids: Array, mask: Array) -> Any:
        """Hidden states of the last layer.

        Args:
            ops: the kernels that `ops` returns.
            params: the parameters that `prepared` returns.
            ids: (B, L) int, token ids.
            mask: (B, L) bool, True for the tokens that other tokens attend to.

        Returns:
            (B, L, H), an array of the backend. Rows of tokens outside the mask are defined too.

        Raises:
            InputError: if an id is not in the vocabulary.
        """
        ...


def check_ids(ids: Array, vocab_size: int) -> None:
    """Refuse token ids that have no row in the table. MLX itself does not check the range.

    Raises:
        InputError: if there is such an id. The error has the range of the ids.
    """
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise InputError(
            f"token ids are {ids.min()}..{ids.max()}, but the vocabulary has {vocab_size} entries: "
            "tokenizer.json does not belong to these weights."
        )
