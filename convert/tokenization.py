"""A checkpoint's tokenizer as one tokenizer.json that needs no transformers to run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from mlx_colbert.config import ColBERTConfig, EncoderConfig
from mlx_colbert.convert.sources import Source
from mlx_colbert.errors import CheckpointError

__all__ = ["ConvertedTokenizer", "convert_tokenizer"]


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer and the settings that depend on it.

    Attributes:
        json: the contents of tokenizer.json.
        colbert: the settings of queries and documents.
    """

    json: str
    colbert: ColBERTConfig


def _load(source: Source) -> Any:
    # transformers warns at import that torch is missing, which is the point.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=False
        )
    # transformers raises anything from KeyError to a Rust panic's Exception for files that it cannot read.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(source.folder, f"the tokenizer cannot be read: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        name = type(tokenizer).__name__
        raise CheckpointError(
            source.folder, f"the tokenizer {name} has no tokenizer.json form (it is not a fast one)."
        )
    return tokenizer


def _lower_case(tokenizer: Any) -> None:
    """Lower-cases texts first, unless the tokenizer does so already."""
    from tokenizers.normalizers import Lowercase, Sequence

    backend = tokenizer.backend_tokenizer
    present = backend.normalizer
    steps: list[Any] = [] if present is None else [present]
    if isinstance(present, Sequence):
        steps = [present[i] for i in range(len(present))]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])


def _register(tokenizer: Any, markers: tuple[str, ...]) -> None:
    """Makes each marker that is in the vocabulary one unsplittable token.

    As ordinary text "[unused0]" shatters into "[ unused ##0 ]", and "[Q] " stored as a normalised token never
    matches under lower-casing. A marker that is not in the vocabulary stays ordinary text.
    """
    from tokenizers import AddedToken

    known = set(tokenizer.get_vocab()) | set(tokenizer.added_tokens_encoder)
    for marker in markers:
        if not marker.split():
            continue
        # PyLate saves "[Q] " with its space as one token; Stanford's marker is the word alone.
        name = next((name for name in (marker, marker.split(None, 1)[0]) if name in known), None)
        if name is not None and tokenizer.tokenize(name) != [name]:
            tokenizer.add_tokens([AddedToken(name, normalized=False, special=True)], special_tokens=True)


def _expansion_id(source: Source, tokenizer: Any) -> int | None:
    if source.expansion is None:
        return None
    token = source.expansion.token
    if token is not None:
        token_id = tokenizer.convert_tokens_to_ids(token)
        if token_id is None or (token_id == tokenizer.unk_token_id and token != tokenizer.unk_token):
            raise CheckpointError(source.folder, f"the expansion token {token!r} is not in the vocabulary.")
        return int(token_id)
    for token_id in (tokenizer.mask_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise CheckpointError(source.folder, "queries are to be filled up, but the tokenizer has no mask token.")


def convert_tokenizer(source: Source, encoder: EncoderConfig) -> ConvertedTokenizer:
    """The tokenizer of a checkpoint, its markers whole, and the settings that go with it.

    Args:
        source: the checkpoint.
        encoder: the encoder's settings, for its longest sequence.

    Raises:
        CheckpointError: if the tokenizer cannot be read or does not belong to the encoder.
    """
    tokenizer = _load(source)
    if source.do_lower_case:
        _lower_case(tokenizer)
    _register(tokenizer, source.markers)
    # A tokenizer without a limit of its own reports 1e30.
    limit = min(source.max_seq_length or tokenizer.model_max_length, encoder.max_length)
    expansion = source.expansion
    query_length = source.query_length if expansion is None else expansion.ceiling
    query_length = min(query_length or limit, encoder.max_length)
    # Words without an id of their own would take every unknown token with them.
    unknown = tokenizer.unk_token_id
    skiplist = tuple(
        word
        for word in source.skiplist_words
        if (token_id := tokenizer.convert_tokens_to_ids(word)) is not None
        and (token_id != unknown or word == tokenizer.unk_token)
    )
    colbert = ColBERTConfig(
        query_prefix=source.prefixes.get("query", ""),
        document_prefix=source.prefixes.get("document", ""),
        query_length=query_length,
        document_length=min(source.document_length or limit, encoder.max_length),
        skiplist_words=skiplist,
        skiplist_tasks=source.skiplist_tasks,
        similarity=source.similarity,
    )
    if expansion is not None:
        if expansion.floor > encoder.max_length:
            raise CheckpointError(
                source.folder,
                f"queries of {expansion.floor} tokens exceed the encoder's {encoder.max_length} positions.",
            )
        colbert = replace(
            colbert,
            do_query_expansion=True,
            expansion_length=None if expansion.floor == query_length else expansion.floor,
            expansion_token_id=_expansion_id(source, tokenizer),
            attend_to_expansion_tokens=expansion.attend,
        )
    return ConvertedTokenizer(tokenizer.backend_tokenizer.to_str(), colbert)
