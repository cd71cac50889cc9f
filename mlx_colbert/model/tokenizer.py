"""Turns texts into token ids as ColBERT does: markers, [MASK] expansion, skiplist, truncation or windows.

The order is that of `MultiVectorEncoder` in sentence-transformers 6.2, of PyLate and of Stanford's ColBERT:
prefix + text is tokenised and truncated before [SEP]; then queries are filled up; then the positions to score
are chosen. The converter has made each marker one token that is never split.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from mlx_colbert.checks import check_choice, is_text
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, ColBERTError, ConfigError, InputError
from mlx_colbert.model.config import ColBERTConfig, OnOverflow, Task
from mlx_colbert.model.long_texts import PIECE, Cutter
from mlx_colbert.model.tokenizer_file import check_file, check_steps
from mlx_colbert.types import Array
from mlx_colbert.untrusted import reading

__all__ = [
    "TokenizedRow",
    "TokenizedTexts",
    "Tokenizer",
    "is_library_error",
    "library_errors",
]

# Tokens of the text that a window repeats from the window before it, at most a quarter of a window. So words
# that the end of one window cuts apart are together in the next.
WINDOW_OVERLAP = 32


def is_library_error(error: BaseException) -> bool:
    """Whether this is the tokenizer library's own: an Exception, or a Rust panic (a BaseException).

    No memory, or too many open files, say nothing of a tokenizer.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        return isinstance(error, ColBERTError)
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def library_errors(where: Path) -> Iterator[None]:
    """Turn the exceptions of the library about a damaged tokenizer into an error of this package.

    Raises:
        CheckpointError: if the block raises such an exception.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, ColBERTError) or not is_library_error(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(where, f"the tokenizer does not work: {reason}") from error


@dataclass(frozen=True, eq=False)
class TokenizedRow:
    """The tokens that the encoder reads at once: a text, or a window of it.

    Attributes:
        ids: (L,) int32, special tokens, marker and expansion included.
        n_attended: other tokens attend to the first `n_attended` tokens only.
        scored: (L,) bool, True for tokens whose vectors are kept.
    """

    ids: Array
    n_attended: int
    scored: Array


@dataclass(frozen=True, eq=False)
class TokenizedTexts:
    """The tokens of N texts.

    Attributes:
        rows: R rows, those of text 0 first.
        n_rows: (N,) int64, rows of each text, >= 1; they sum to R.
        n_truncated: number of texts that were truncated.
        max_length: the largest length that a row may have.
    """

    rows: list[TokenizedRow]
    n_rows: Array
    n_truncated: int
    max_length: int

    @property
    def row_lengths(self) -> Array:
        """(R,) int64, tokens of each row."""
        return np.array([len(row.ids) for row in self.rows], np.int64)


class Tokenizer:
    """The tokenizer of one model, set up for queries and documents.

    Args:
        path: tokenizer.json.
        config: the settings of queries and documents.
        content: the bytes of the file. None: they are read.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        UnsafeCheckpointError: if the library cannot read the file safely.
        CheckpointError: if the file is not a tokenizer.
    """

    def __init__(self, path: Path, config: ColBERTConfig, content: bytes | None = None) -> None:
        if content is None:
            if not path.is_file():
                raise CheckpointNotFoundError(path.parent, f"{path.name} is missing.")
            with reading(path):
                content = path.read_bytes()
        self._path = path
        self._config = config
        with library_errors(self._path):
            check_file(path, content)
            self._library = FastTokenizer.from_str(content.decode("utf-8"))
            if getattr(self._library.model, "dropout", None):
                # The converter does this too, but older versions of it did not.
                self._library.model.dropout = None
            self._library.no_padding()
            self._library.no_truncation()
            check_steps(path, self._library)
            self._check_lengths()
            # The special tokens that follow a text: [SEP].
            mask = self._library.encode("a").special_tokens_mask
            self._n_closing = mask[::-1].index(0) if 0 in mask else 0
            # The tokens at the beginning of each window of a document: [CLS], marker, prompt.
            opening = self._library.encode(config.document_prefix).ids
            self._opening = np.array(opening[: len(opening) - self._n_closing], np.int32)
            # The tokens of "a", which stands before each piece of a long text. They are left out.
            self._n_before = len(self._library.encode("a", add_special_tokens=False))
            self._cutter: Cutter | None = None
            skipped = (self._library.token_to_id(word) for word in config.skiplist_words)
            self._skiplist = np.array(sorted({i for i in skipped if i is not None}), dtype=np.int32)

    def with_lengths(self, config: ColBERTConfig) -> Tokenizer:
        """The same tokenizer with settings that differ in their lengths alone. The file is not read again.

        Raises:
            CheckpointError: if a length is shorter than the special tokens around a text.
        """
        other = copy.copy(self)
        other._config = config
        with library_errors(self._path):
            other._check_lengths()
        return other

    def _check_lengths(self) -> None:
        shortest = min(self._config.query_length, self._config.document_length)
        if self._library.num_special_tokens_to_add(False) > shortest:
            raise ValueError(f"it adds more special tokens than the {shortest} tokens that a text may have")

    def spans(
        self, text: str, tokens: TokenizedTexts, task: Task, on_overflow: OnOverflow
    ) -> list[tuple[int, int]]:
        """The place in the text of each token: its start and its end. They are equal for a special token.

        Args:
            text: the text.
            tokens: the tokens of this text alone, from `queries` or from `documents` with this `on_overflow`.
            task: "query" or "document".
            on_overflow: as for `documents`.

        Returns:
            A place for each token of all rows.
        """
        prefix = self._config.query_prefix if task == "query" else self._config.document_prefix
        way: OnOverflow = "truncate" if task == "query" else on_overflow
        ids, offsets = self._read_long(text, prefix, None if way == "chunk" else tokens.max_length)
        windows = self._windows(ids, tokens.max_length, way)
        places = [(max(start - len(prefix), 0), max(end - len(prefix), 0)) for start, end in offsets]
        found: list[tuple[int, int]] = []
        for row, positions in zip(tokens.rows, windows, strict=True):
            found += [places[position] for position in positions]
            found += [(0, 0)] * (len(row.ids) - len(positions))
        return found

    def surface(self, text: str, tokens: TokenizedTexts, task: Task, on_overflow: OnOverflow) -> list[str]:
        """The piece of the text that each token stands for, or the name of a special token.

        The arguments are those of `spans`.
        """
        ids = np.concatenate([row.ids for row in tokens.rows])
        return [
            text[start:end].strip() or str(self._library.id_to_token(int(token_id))).strip()
            for (start, end), token_id in zip(self.spans(text, tokens, task, on_overflow), ids, strict=True)
        ]

    def _encode(
        self, texts: Sequence[str], prefix: str, enough: int | None, names: Sequence[str] | None = None
    ) -> list[Array]:
        """The ids of each text, special tokens included.

        Args:
            texts: N texts.
            prefix: put before each text.
            enough: a long text is read until there are more ids than this. None: to its end.
            names: the names of the texts in an error message. None: their positions.

        Raises:
            InputError: if a text is too long to be tokenised.
        """
        with library_errors(self._path):
            encodings = self._library.encode_batch_fast(
                [prefix + text if len(text) <= PIECE else "" for text in texts]
            )
            found = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        for position, text in enumerate(texts):
            if len(text) > PIECE:
                try:
                    found[position] = self._read_long(text, prefix, enough)[0]
                except InputError as error:
                    name = f"text {position}" if names is None else repr(names[position])
                    raise InputError(f"{name}: {error}") from None
        return found

    def _read_long(self, text: str, prefix: str, enough: int | None) -> tuple[Array, list[tuple[int, int]]]:
        """The (n,) ids of a text of any length, and the place of each token in prefix + text.

        The text is tokenised in pieces until there are more than `enough` ids. None: to its end.
        """
        with library_errors(self._path):
            self._cutter = self._cutter or Cutter(self._library)
            pieces = self._cutter.pieces(text)
            piece = next(pieces, "")
            whole = self._library.encode(prefix + piece)
            end = len(whole) - self._n_closing
            ids, offsets = [np.array(whole.ids[:end], np.int32)], whole.offsets[:end]
            start = len(prefix) + len(piece)
            for piece in pieces:
                if enough is not None and len(offsets) + self._n_closing > enough:
                    break
                part = self._library.encode("a" + piece, add_special_tokens=False)
                ids.append(np.array(part.ids[self._n_before :], np.int32))
                shift = start - len("a")
                offsets += [(left + shift, right + shift) for left, right in part.offsets[self._n_before :]]
                start += len(piece)
            closing = np.array(whole.ids[end:], np.int32)
            return np.concatenate([*ids, closing]), offsets + whole.offsets[end:]

    def _windows(self, ids: Array, max_length: int, on_overflow: OnOverflow) -> list[Array]:
        """The positions of the tokens in each window of a text. Only "chunk" makes more than one window."""
        if len(ids) <= max_length:
            return [np.arange(len(ids))]
        end = len(ids) - self._n_closing
        closing = np.arange(end, len(ids))
        if on_overflow != "chunk":
            return [np.concatenate([np.arange(max_length - self._n_closing), closing])]
        # A tokenizer may join the end of a prompt with the text. Only the tokens before that are the
        # prompt's.
        opening = self._opening[: len(ids)]
        differ = np.flatnonzero(ids[: len(opening)] != opening)
        n_opening = int(differ[0]) if len(differ) else len(opening)
        room = max_length - n_opening - self._n_closing
        if room < 1:
            problem = (
                f"{max_length} is too small: markers and prompt take {n_opening + self._n_closing} tokens"
            )
            raise ConfigError("document_length", [f"{problem}, and no text fits"])
        overlap = min(WINDOW_OVERLAP, room // 4)
        return [
            np.concatenate([np.arange(n_opening), np.arange(start, min(start + room, end)), closing])
            for start in range(n_opening, end - overlap, room - overlap)
        ]

    def fits(self, text: str) -> bool:
        """Whether a document has at most `document_length` tokens.

        Raises:
            InputError: if the document is not a string.
        """
        if not is_text(text):
            raise InputError("a document must be a string without lone surrogates.")
        length = self._config.document_length
        return len(self._encode([text], self._config.document_prefix, length)[0]) <= length

    def _scored(self, ids: Array, task: Task) -> Array:
        if task in self._config.skiplist_tasks and len(self._skiplist):
            return ~np.isin(ids, self._skiplist)
        return np.ones(len(ids), dtype=bool)

    def documents(
        self,
        texts: Sequence[str],
        *,
        on_overflow: OnOverflow = "truncate",
        names: Sequence[str] | None = None,
    ) -> TokenizedTexts:
        """The tokens of documents: [CLS] marker tokens [SEP], at most `document_length`.

        Skiplist tokens are not scored.

        Args:
            texts: N texts, without lone surrogates.
            on_overflow: what to do with a longer text. "truncate": it is truncated before [SEP]. "error": an
                error is raised. "chunk": it is read in windows of `document_length` tokens, each with its own
                [CLS], marker, prompt and [SEP]. The windows overlap by `WINDOW_OVERLAP` tokens.
            names: the names of the texts in an error message. None: their positions.

        Raises:
            InputError: if a text is too long and `on_overflow` is "error", or `on_overflow` is unknown.
            ConfigError: if the markers and the prompt leave no room for text in a window.
        """
        check_choice(on_overflow, "on_overflow", get_args(OnOverflow))
        length = self._config.document_length
        rows: list[TokenizedRow] = []
        n_rows = np.ones(len(texts), np.int64)
        n_truncated = 0
        enough = length if on_overflow == "truncate" else None
        encoded = self._encode(texts, self._config.document_prefix, enough, names)
        for position, ids in enumerate(encoded):
            parts = [ids]
            if len(ids) > length:
                if on_overflow == "error":
                    name = f"text {position}" if names is None else repr(names[position])
                    raise InputError(
                        f"{name}: has {len(ids):,} tokens, more than the document_length of {length:,}. "
                        "Split the text, choose a larger document_length, or choose another on_overflow."
                    )
                parts = [ids[window] for window in self._windows(ids, length, on_overflow)]
                n_rows[position] = len(parts)
                n_truncated += on_overflow == "truncate"
            rows += [TokenizedRow(part, len(part), self._scored(part, "document")) for part in parts]
        return TokenizedTexts(rows, n_rows, n_truncated, length)

    def queries(self, texts: Sequence[str]) -> TokenizedTexts:
        """The tokens of queries: [CLS] marker tokens [SEP], at most `query_length`, then expansion tokens.

        Args:
            texts: N texts, without lone surrogates.
        """
        config = self._config
        floor = 0
        if config.do_query_expansion:
            floor = config.query_length if config.expansion_length is None else config.expansion_length
        rows = []
        n_truncated = 0
        for ids in self._encode(texts, config.query_prefix, config.query_length):
            n_truncated += len(ids) > config.query_length
            ids = ids[self._windows(ids, config.query_length, "truncate")[0]]
            n_tokens = len(ids)
            if n_tokens < floor:
                ids = np.concatenate([ids, np.full(floor - n_tokens, config.expansion_token_id, np.int32)])
            n_attended = len(ids) if config.attend_to_expansion_tokens else n_tokens
            rows.append(TokenizedRow(ids, n_attended, self._scored(ids, "query")))
        return TokenizedTexts(rows, np.ones(len(rows), np.int64), n_truncated, config.query_length)
