"""Text to token ids, ColBERT's way: markers, [MASK] expansion, skiplist, truncation.

The order of operations is sentence-transformers' `MultiVectorEncoder` (6.2), to which PyLate and
Stanford's ColBERT are identical: prefix + text is tokenised and truncated before [SEP], queries are then
filled up, and positions are chosen for scoring. The converter has made each marker one unsplittable token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from mlx_colbert.config import ColBERTConfig, Task
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, ColBERTError, InputError
from mlx_colbert.passage import is_text
from mlx_colbert.types import Array

__all__ = ["TokenizedText", "Tokenizer", "is_library_error", "library_errors"]


def is_library_error(error: BaseException) -> bool:
    """Whether an exception is the tokenizer library's: plain Exceptions, or a Rust panic, which is none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def library_errors(where: Path) -> Iterator[None]:
    """Turns whatever the library raises for a damaged tokenizer into this package's error."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, ColBERTError) or not is_library_error(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(where, f"the tokenizer does not work: {reason}") from error


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """The tokens of one text.

    Attributes:
        ids: (L,) int32, special tokens, marker and expansion included.
        n_attended: tokens that others attend to: the first `n_attended` of them.
        scored: (L,) bool, tokens whose vectors are kept.
    """

    ids: Array
    n_attended: int
    scored: Array


class Tokenizer:
    """The tokenizer of one model, set up for queries and documents.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        CheckpointError: if the file is not a tokenizer.
    """

    def __init__(self, path: Path, config: ColBERTConfig) -> None:
        if not path.is_file():
            raise CheckpointNotFoundError(path.parent, f"{path.name} is missing.")
        self._path = path
        self._config = config
        with library_errors(self._path):
            text = path.read_text(encoding="utf-8")
            self._query = self._document = FastTokenizer.from_str(text)
            if config.query_length != config.document_length:
                self._document = FastTokenizer.from_str(text)
            for tokenizer, length in (
                (self._query, config.query_length),
                (self._document, config.document_length),
            ):
                tokenizer.no_padding()
                tokenizer.enable_truncation(length)
            skipped = (self._query.token_to_id(word) for word in config.skiplist_words)
            self._skiplist = np.array(sorted({i for i in skipped if i is not None}), dtype=np.int32)

    def surface(self, text: str, tokens: TokenizedText, task: Task) -> list[str]:
        """What each token of `text` reads: its piece of the text, or the name of a special token.

        Args:
            text: the text.
            tokens: what `queries` or `documents` made of it: L tokens.
            task: which of the two.

        Returns:
            L strings.
        """
        query = task == "query"
        prefix = self._config.query_prefix if query else self._config.document_prefix
        with library_errors(self._path):
            encoding = (self._query if query else self._document).encode(prefix + text)
        pieces = [
            text[max(start - len(prefix), 0) : max(end - len(prefix), 0)] for start, end in encoding.offsets
        ]
        pieces += [""] * (len(tokens.ids) - len(pieces))
        return [
            piece.strip() or str(self._query.id_to_token(int(token_id))).strip()
            for piece, token_id in zip(pieces, tokens.ids, strict=True)
        ]

    def _encode(self, texts: Sequence[str], task: Task) -> list[Array]:
        config = self._config
        tokenizer, prefix, length = self._document, config.document_prefix, config.document_length
        if task == "query":
            tokenizer, prefix, length = self._query, config.query_prefix, config.query_length
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {position} is a {type(text).__name__}, not a string.")
            if not is_text(text):
                raise InputError(f"text {position} is not valid Unicode: it holds a lone surrogate.")
        with library_errors(self._path):
            encodings = tokenizer.encode_batch_fast([prefix + text for text in texts])
            rows = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
            if any(len(ids) > length for ids in rows):
                raise ValueError(f"its special tokens exceed the {length} tokens of a text")
        return rows

    def fits(self, text: str) -> bool:
        """Whether a document is encoded to its end, not truncated.

        Raises:
            InputError: if it is not a string.
        """
        if not is_text(text):
            raise InputError("a document must be a string without lone surrogates.")
        with library_errors(self._path):
            return not self._document.encode(self._config.document_prefix + text).overflowing

    def _scored(self, ids: Array, task: Task) -> Array:
        if task in self._config.skiplist_tasks and len(self._skiplist):
            return ~np.isin(ids, self._skiplist)
        return np.ones(len(ids), dtype=bool)

    def documents(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Documents: [CLS] marker tokens [SEP], at most `document_length`; skiplist tokens are not scored.

        Raises:
            InputError: if a text is not a string.
        """
        rows = self._encode(texts, "document")
        return [TokenizedText(ids, len(ids), self._scored(ids, "document")) for ids in rows]

    def queries(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Queries: [CLS] marker tokens [SEP], at most `query_length`, then the expansion token as fill.

        Raises:
            InputError: if a text is not a string.
        """
        config = self._config
        floor = 0
        if config.do_query_expansion:
            floor = config.query_length if config.expansion_length is None else config.expansion_length
        tokenized = []
        for ids in self._encode(texts, "query"):
            n_tokens = len(ids)
            if n_tokens < floor:
                ids = np.concatenate([ids, np.full(floor - n_tokens, config.expansion_token_id, np.int32)])
            n_attended = len(ids) if config.attend_to_expansion_tokens else n_tokens
            tokenized.append(TokenizedText(ids, n_attended, self._scored(ids, "query")))
        return tokenized
