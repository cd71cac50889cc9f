"""A checkpoint's tokenizer as one tokenizer.json that needs no transformers to run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_colbert.convert.sources.source import Source
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.config import ColBERTConfig
from mlx_colbert.model.folder import check_size, read_json
from mlx_colbert.model.hub import TOKENIZERS
from mlx_colbert.model.tokenizer import is_library_error, library_errors

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


# No text is longer, whatever a setting says.
MAX_LENGTH = 1 << 20


def _check_files(folder: Path) -> None:
    """Refuses a folder without a tokenizer, and settings that would read files from elsewhere.

    Raises:
        CheckpointError: saying which.
    """
    if not any((folder / name).is_file() and (folder / name).stat().st_size for name in TOKENIZERS):
        raise CheckpointNotFoundError(folder, f"no tokenizer here; looked for {', '.join(TOKENIZERS)}.")
    # transformers reads all of these whole.
    for pattern in ("*.json", "*.txt", "*.model", "*.jinja", "*/*.jinja"):
        for path in folder.glob(pattern):
            check_size(path)
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    settings = read_json(path)
    for key, value in settings.items():
        # Versions of transformers have opened these as paths; old checkpoints name files of their authors.
        if isinstance(value, str) and (
            key in ("vocab", "merges") or (key.endswith("_file") and _exists(value))
        ):
            raise UnsafeCheckpointError(path, f"{key!r} names a file of its own. Refused.")
    length = settings.get("model_max_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 3):
        if not (isinstance(length, float) and length > 1e9):  # older versions write "no limit" as 1e30
            raise CheckpointError(path, f"'model_max_length' must be a number of tokens, got {length!r}.")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long for a name
        return False


def _load(source: Source) -> Any:
    _check_files(source.folder)
    # transformers warns at import that torch is missing, which is the point.
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
    # transformers raises anything from KeyError to a Rust panic, which is no Exception, for damaged files.
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


def _check_tokenizer(source: Source, tokenizer: Any, encoder: Backbone) -> None:
    """Refuses a tokenizer of another encoder, and settings that are not implemented.

    Raises:
        CheckpointError: listing all of them.
    """
    problems = []
    for name, usual in (
        ("padding_side", "right"),
        ("truncation_side", "right"),
        ("split_special_tokens", False),
    ):
        value = getattr(tokenizer, name, usual)
        if value != usual:
            problems.append(f"the tokenizer's {name} {value!r} is not implemented")
    if encoder.type_vocab_size > 1 and "token_type_ids" in tokenizer.model_input_names:
        if any(tokenizer("a")["token_type_ids"]):
            problems.append("the tokenizer gives token types other than 0, which is not implemented")
    known, expected = len(tokenizer), encoder.vocab_size
    if known < expected // 2:
        problems.append(
            f"the tokenizer knows {known} tokens, the encoder {expected}: they do not belong together"
        )
    # The library writes a vocabulary down id by id: 4 GB for one token with the id 2^31.
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= 2 * expected:
        problems.append(f"the tokenizer has a token id {highest}, the encoder {expected} tokens")
    if problems:
        raise CheckpointError(source.folder, problems)


def _bounded(length: int, encoder: Backbone) -> int:
    """A length that the encoder has positions for: a table of positions ends, rotary ones do not."""
    return min(length, encoder.max_length if encoder.position == "absolute" else MAX_LENGTH)


def convert_tokenizer(source: Source, encoder: Backbone) -> ConvertedTokenizer:
    """The tokenizer of a checkpoint, its markers whole, and the settings that go with it.

    Args:
        source: the checkpoint.
        encoder: the encoder's settings, for its longest sequence.

    Raises:
        CheckpointError: if the tokenizer cannot be read or does not belong to the encoder.
    """
    tokenizer = _load(source)
    # Each call of a damaged tokenizer may fail, not only its reading.
    with library_errors(source.folder):
        return _converted(source, tokenizer, encoder)


def _converted(source: Source, tokenizer: Any, encoder: Backbone) -> ConvertedTokenizer:
    _check_tokenizer(source, tokenizer, encoder)
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
            source.folder, "neither the tokenizer nor a prefix adds a token: an empty text would have none."
        )
    query_length = source.query_length if expansion is None else expansion.ceiling
    query_length = _bounded(query_length or limit, encoder)
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
        document_length=_bounded(source.document_length or limit, encoder),
        skiplist_words=skiplist,
        skiplist_tasks=source.skiplist_tasks,
        similarity=source.similarity,
    )
    if expansion is not None:
        if expansion.floor > query_length:
            raise CheckpointError(
                source.folder,
                f"queries are to be filled up to {expansion.floor} tokens, but may have {query_length}.",
            )
        colbert = replace(
            colbert,
            do_query_expansion=True,
            expansion_length=None if expansion.floor == query_length else expansion.floor,
            expansion_token_id=_expansion_id(source, tokenizer),
            attend_to_expansion_tokens=expansion.attend,
        )
    return ConvertedTokenizer(tokenizer.backend_tokenizer.to_str(), colbert)
