"""The settings of an index. They never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from mlx_colbert.checks import check_choice, check_whole, is_text
from mlx_colbert.errors import InputError, ModelMismatchError
from mlx_colbert.index.storage.codec import Bits

DEFAULT_NBITS: Bits = 4
# Up to this number, a scan takes about 30 ms (examples/bench/README.md), and it is exact.
EXACT_TOKENS = 300_000
# No embedding has more components.
_MAX_DIM = 1 << 20
# Settings of the retriever. Without the key `indexing`, they are in `model`.
_WERE_IN_MODEL = ("pool_factor", "on_overflow")


@dataclass(frozen=True)
class IndexSettings:
    """The settings of an index.

    Attributes:
        dim: D of its token embeddings.
        nbits: bits per component of compressed passages.
        exact_tokens: with more token embeddings than this, the index is compressed; None for never.
        model: the model of the token embeddings, if the caller gave one.
        indexing: the caller's settings to encode passages.
    """

    dim: int
    nbits: Bits
    exact_tokens: int | None
    model: dict[str, str] | None
    indexing: dict[str, str]

    @classmethod
    def check(
        cls, dim: Any, *, nbits: Any, exact_tokens: Any, model: Any, indexing: Any = None
    ) -> IndexSettings:
        """The checked settings.

        Raises:
            InputError: if one cannot be used.
        """
        dim = check_whole(dim, "dim", at_least=1)
        if dim > _MAX_DIM:
            raise InputError(f"dim is {dim}. Give {_MAX_DIM} or less.")
        texts = _checked_texts(model, "model")
        n_bits = check_whole(nbits, "nbits")
        check_choice(n_bits, "nbits", get_args(Bits))
        if dim * n_bits % 8:
            raise InputError(f"dim {dim} times nbits {nbits} is not a multiple of 8. Choose more bits.")
        n_exact = None if exact_tokens is None else check_whole(exact_tokens, "exact_tokens", at_least=0)
        return cls(dim, cast(Bits, n_bits), n_exact, texts, _checked_texts(indexing, "indexing") or {})

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> IndexSettings:
        """The settings in the table `meta` of a catalog.

        Raises:
            InputError: if one cannot be used.
            KeyError: if one is missing.
            TypeError: if one has the wrong type.
        """
        dim, model, indexing = meta["dim"], meta["model"], meta.get("indexing")
        if indexing is None and isinstance(model, dict):
            indexing = {name: model[name] for name in _WERE_IN_MODEL if name in model}
            model = {name: text for name, text in model.items() if name not in indexing}
        return cls.check(
            dim,
            # Format 1 does not have them.
            nbits=meta.get("nbits", DEFAULT_NBITS if dim % 2 == 0 else 8),
            exact_tokens=meta.get("exact_tokens", EXACT_TOKENS),
            model=model,
            indexing=indexing,
        )

    def differences(self, other: IndexSettings) -> list[str]:
        """The settings that differ in another index, without the model: "nbits 4, not 2"."""
        names = ("dim", "nbits", "exact_tokens", "indexing")
        pairs = [(name, getattr(other, name), getattr(self, name)) for name in names]
        return [f"{name} {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours]

    def to_meta(self) -> dict[str, Any]:
        """The settings as JSON values by name."""
        return asdict(self)


def _checked_texts(values: Any, name: str) -> dict[str, str] | None:
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise InputError(f"{name} has the type {type(values).__name__}. Give a dict of strings.")
    if not all(is_text(part) for item in values.items() for part in item):
        raise InputError(f"{name} has a key or value that is not text. Give a dict of strings.")
    return dict(values)


def check_same_model(
    path: str | Path, *, theirs: Mapping[str, str] | None, ours: Mapping[str, str] | None
) -> None:
    """Raise an error if two models have a "fingerprint", and it is not the same.

    Args:
        path: the index.
        theirs: the model of the caller.
        ours: the model that the index records.

    Raises:
        ModelMismatchError: the message names both models.
    """
    given, recorded = theirs or {}, ours or {}
    if "fingerprint" not in given or "fingerprint" not in recorded:
        return
    if given["fingerprint"] == recorded["fingerprint"]:
        return
    settings = [
        f" {key} is {given[key]}; the index has {recorded.get(key, 'not given')}."
        for key in sorted(given.keys() - {"source", "fingerprint", "revision"})
        if given[key] != recorded.get(key)
    ]
    raise ModelMismatchError(
        path,
        f"has the vectors of {recorded.get('source', 'another model')!r} ({recorded['fingerprint']}), not "
        f"of {given.get('source', 'this model')!r} ({given['fingerprint']}).{''.join(settings)} "
        "Open it with the model that made it.",
    )
