"""Converts the tokenizer of a checkpoint to one tokenizer.json, which needs no transformers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from mlx_colbert.convert.sources.source import Source
from mlx_colbert.convert.tokenizer_files import check_files
from mlx_colbert.counts import counted
from mlx_colbert.errors import CheckpointError
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.config import ColBERTConfig
from mlx_colbert.model.tokenizer import Tokenizer, is_library_error, library_errors
from mlx_colbert.model.tokenizer_file import check_steps
from mlx_colbert.untrusted import shown

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


# The largest length of a text. Larger settings are ignored.
MAX_LENGTH = 1 << 20


def _load(source: Source) -> Any:
    # At import, transformers warns that torch is missing. It is not needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # It also warns of every model_type that is not its own.
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=False
        )
    # For damaged files, transformers raises many exceptions, also a Rust panic, which is a BaseException.
    except BaseException as error:
        if not is_library_error(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not (source.folder / "tokenizer.json").is_file() and list(source.folder.glob("*.model")):
            reason += ". A .model file needs: pip install sentencepiece protobuf"
        raise CheckpointError(source.folder, f"the tokenizer cannot be read: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
    if not getattr(tokenizer, "is_fast", False):
        name = type(tokenizer).__name__
        raise CheckpointError(
            source.folder,
            f"the tokenizer {name} cannot be written as tokenizer.json, because it is not a fast tokenizer.",
        )
    return tokenizer


def _lower_case(tokenizer: Any) -> None:
    """Make the tokenizer lower-case texts first, if it does not yet."""
    from tokenizers.normalizers import Lowercase, Sequence

    backend = tokenizer.backend_tokenizer
    present = backend.normalizer
    steps: list[Any] = [] if present is None else [present]
    if isinstance(present, Sequence):
        steps = [present[i] for i in range(len(present))]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])


def _register(tokenizer: Any, markers: tuple[str, ...]) -> None:
    """Make each marker that is in the vocabulary one token that is never split.

    As ordinary text, "[unused0]" would become "[ unused ##0 ]". As a normalised token, "[Q] " would never
    match in lower-cased texts. A marker that is not in the vocabulary stays ordinary text.
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
            raise CheckpointError(
                source.folder, f"the expansion token {shown(token)} is not in the vocabulary."
            )
        return int(token_id)
    for token_id in (tokenizer.mask_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise CheckpointError(source.folder, "queries must be filled up, but the tokenizer has no mask token.")


def _check_tokenizer(
    source: Source, tokenizer: Any, encoder: Backbone, declared: list[tuple[int, str]]
) -> None:
    """Refuse a tokenizer of another encoder, and settings that are not implemented.

    Args:
        source: the checkpoint.
        tokenizer: its tokenizer.
        encoder: its encoder.
        declared: the ids of added tokens, as the files say them.

    Raises:
        CheckpointError: if there are such. The error lists all of them.
    """
    problems = []
    for name, usual in (
        ("padding_side", "right"),
        ("truncation_side", "right"),
        ("split_special_tokens", False),
    ):
        value = getattr(tokenizer, name, usual)
        if value != usual:
            problems.append(f"the tokenizer's {name} {shown(value)} is not implemented")
    if encoder.type_vocab_size > 1 and "token_type_ids" in tokenizer.model_input_names:
        if any(tokenizer("a")["token_type_ids"]):
            problems.append("the tokenizer gives token types other than 0, which is not implemented")
    known, expected = len(tokenizer), encoder.vocab_size
    if known < expected // 2:
        problems.append(
            f"the tokenizer has {known} tokens, the encoder {expected}: they belong to two models"
        )
    # The encoder has no vector for such a token. Also, the library writes a vocabulary id by id: 4 GB for one
    # token with the id 2^31.
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= expected)
    # The library gives an added token another id than its file says, if the file's leaves a gap.
    beyond += [(number, token) for number, token in declared if number >= expected]
    # The tokens that are added around every text may have other ids.
    beyond += [(number, "") for number in tokenizer.backend_tokenizer.encode("").ids if number >= expected]
    if beyond:
        number, token = beyond[0]
        problem = (
            f"the token {shown(token)} has the id {shown(number)}, beyond the {counted(expected, 'row')}"
        )
        problem += f" of the encoder's table ({counted(len(beyond), 'such id')})"
        problems.append(f"{problem}. Resize the table, or remove these tokens")
    if problems:
        raise CheckpointError(source.folder, problems)


def _bounded(length: int, encoder: Backbone) -> int:
    """A length that the encoder allows. A table of positions has an end, rotary positions do not."""
    return min(length, encoder.max_length if encoder.position == "absolute" else MAX_LENGTH)


def convert_tokenizer(source: Source, encoder: Backbone) -> ConvertedTokenizer:
    """The tokenizer of a checkpoint, with whole markers, and the settings that depend on it.

    Args:
        source: the checkpoint.
        encoder: the encoder's settings, for its longest sequence.

    Raises:
        CheckpointError: if the tokenizer cannot be read or does not belong to the encoder.
    """
    declared = check_files(source.folder)
    tokenizer = _load(source)
    # With a damaged tokenizer, every call may fail, not only the reading of its file.
    with library_errors(source.folder):
        # transformers turns them off too, but at its first call only. Fixed padding may need any memory.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        check_steps(source.folder, tokenizer.backend_tokenizer)
        _check_tokenizer(source, tokenizer, encoder, declared)
        converted = _converted(source, tokenizer, encoder)
    # What `ColBERT.load` would refuse is refused now.
    Tokenizer(source.folder / "tokenizer.json", converted.colbert, converted.json.encode())
    return converted


def _converted(source: Source, tokenizer: Any, encoder: Backbone) -> ConvertedTokenizer:
    if getattr(tokenizer.backend_tokenizer.model, "dropout", None):
        # Dropout is for training: with it, a text would have other tokens at each call.
        tokenizer.backend_tokenizer.model.dropout = None
    if source.do_lower_case:
        _lower_case(tokenizer)
    _register(tokenizer, source.markers)
    # A tokenizer without a limit of its own reports 1e30.
    limit = int(min(tokenizer.model_max_length, encoder.max_length))
    if source.max_seq_length is not None:
        limit = _bounded(source.max_seq_length, encoder)
    expansion = source.expansion
    if not all(tokenizer(source.prefixes.get(task, ""))["input_ids"] for task in ("query", "document")):
        raise CheckpointError(
            source.folder, "an empty text would have no tokens: the tokenizer and the prefix add none."
        )
    query_length = source.query_length if expansion is None else expansion.ceiling
    query_length = _bounded(query_length or limit, encoder)
    # A word that is not in the vocabulary has the id of unknown tokens. All unknown tokens would be dropped.
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
        document_length=_bounded(source.document_length or limit, encoder),
        skiplist_words=skiplist,
        skiplist_tasks=source.skiplist_tasks,
        similarity=source.similarity,
    )
    if expansion is not None:
        if expansion.floor > query_length:
            floor = shown(expansion.floor)
            raise CheckpointError(
                source.folder,
                f"queries must be filled up to {floor} tokens, but have at most {query_length}.",
            )
        colbert = replace(
            colbert,
            do_query_expansion=True,
            expansion_length=None if expansion.floor == query_length else expansion.floor,
            expansion_token_id=_expansion_id(source, tokenizer),
            attend_to_expansion_tokens=expansion.attend,
        )
    return ConvertedTokenizer(tokenizer.backend_tokenizer.to_str(), colbert)
